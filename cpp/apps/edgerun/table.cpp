#include "table.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace edgerun {
namespace {

constexpr std::size_t kMaxWidth = 80;
constexpr std::size_t kIndent = 2;
constexpr std::size_t kGap = 2;

// Columns on a terminal, counting a UTF-8 sequence as one.
std::size_t width(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

std::string shorten(const std::string& text, std::size_t limit) {
  if (width(text) <= limit) return text;
  std::size_t bytes = 0;
  for (std::size_t columns = 0; bytes < text.size(); ++bytes) {
    if ((static_cast<unsigned char>(text[bytes]) & 0xC0U) != 0x80U && ++columns >= limit) break;
  }
  return text.substr(0, bytes) + "…";
}

}  // namespace

bool use_colour(int fd) {
  const char* no_color = std::getenv("NO_COLOR");
  if (no_color != nullptr && *no_color != '\0') return false;
  const char* term = std::getenv("TERM");
  return ::isatty(fd) == 1 && term != nullptr && std::string_view(term) != "dumb";
}

std::string bold(std::string_view text) {
  if (!use_colour(STDOUT_FILENO)) return std::string(text);
  return "\x1b[1m" + std::string(text) + "\x1b[0m";
}

std::string heading(std::string_view text) {
  std::string line("\n");
  return line.append(bold(text)).append("\n");
}

std::string printable(std::string text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = static_cast<unsigned char>(i + 1 < text.size() ? text[i + 1] : '\0');
    if (byte < 0x20 || byte == 0x7F) text[i] = '?';
    if (byte == 0xC2 && next >= 0x80 && next < 0xA0) text.replace(i, 2, "?");  // U+0080 to U+009F
  }
  return text;
}

Table::Table(std::vector<Column> columns, std::size_t flexible) : columns_(std::move(columns)), flexible_(flexible) {}

void Table::add(std::vector<std::string> cells) {
  for (std::string& cell : cells) cell = printable(std::move(cell));
  rows_.push_back(std::move(cells));
}

std::string Table::text() const {
  std::vector<std::size_t> widths;
  std::size_t total = kIndent;
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    std::size_t widest = width(columns_[i].title);
    for (const auto& row : rows_) widest = std::max(widest, width(row[i]));
    widths.push_back(widest);
    total += widest + (i > 0 ? kGap : 0);
  }
  if (total > kMaxWidth) {
    const std::size_t excess = total - kMaxWidth;
    const std::size_t least = std::max<std::size_t>(width(columns_[flexible_].title), 8);
    widths[flexible_] = std::max(least, widths[flexible_] > excess ? widths[flexible_] - excess : 0);
  }
  std::string text;
  const auto line = [&](const auto& cell_at, bool header) {
    std::string content;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      const std::string cell = shorten(cell_at(i), widths[i]);
      const std::string padding(widths[i] - std::min(widths[i], width(cell)), ' ');
      if (i > 0) content.append(kGap, ' ');
      content += columns_[i].align == Align::kRight ? padding + cell : cell + padding;
    }
    while (!content.empty() && content.back() == ' ') content.pop_back();
    text.append(kIndent, ' ');
    text += (header ? bold(content) : content) + "\n";
  };
  line([&](std::size_t i) { return columns_[i].title; }, true);
  for (const auto& row : rows_) line([&](std::size_t i) { return row[i]; }, false);
  return text;
}

std::string format_bytes(std::uint64_t bytes) {
  if (bytes < 1000) return format("%d B", static_cast<int>(bytes));
  auto value = static_cast<double>(bytes);
  for (const char* unit : {"kB", "MB", "GB"}) {
    value /= 1000.0;
    if (value < 999.95) return format("%.1f %s", value, unit);
  }
  return format("%.1f TB", value / 1000.0);
}

std::string format_seconds(double seconds) {
  if (seconds < 1e-6) return format("%.0f ns", seconds * 1e9);
  if (seconds < 1e-3) return format("%.2f us", seconds * 1e6);
  if (seconds < 1.0) return format("%.3f ms", seconds * 1e3);
  return format("%.3f s", seconds);
}

std::string format(const char* pattern, ...) {
  va_list arguments;
  va_start(arguments, pattern);
  va_list copy;
  va_copy(copy, arguments);
  const int size = std::vsnprintf(nullptr, 0, pattern, copy);
  va_end(copy);
  std::string text(static_cast<std::size_t>(std::max(size, 0)), '\0');
  std::vsnprintf(text.data(), text.size() + 1, pattern, arguments);
  va_end(arguments);
  return text;
}

}  // namespace edgerun
