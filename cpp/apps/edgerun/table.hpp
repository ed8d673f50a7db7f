// Plain text for people: aligned columns, at most as wide as a narrow terminal.

#ifndef EDGEBUILD_APPS_EDGERUN_TABLE_HPP_
#define EDGEBUILD_APPS_EDGERUN_TABLE_HPP_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace edgerun {

/// Whether `fd` is a terminal that shall get colour: NO_COLOR unset, TERM not "dumb".
[[nodiscard]] bool use_colour(int fd);
/// `text`, bold if stdout gets colour.
[[nodiscard]] std::string bold(std::string_view text);

/// An empty line, then `text` as the title of what follows.
[[nodiscard]] std::string heading(std::string_view text);

/// `text` with a '?' for each control character: names come from bundles, and a terminal obeys what it is shown.
[[nodiscard]] std::string printable(std::string text);

/// Rows of cells under a header. The widest cells of the column that was chosen to give way are shortened with "…".
class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string title;
    Align align = Align::kLeft;
  };

  /// @param flexible  The column that is shortened where a line would exceed 80 columns.
  Table(std::vector<Column> columns, std::size_t flexible);
  void add(std::vector<std::string> cells);
  /// Lines that end in newlines, indented by two spaces.
  [[nodiscard]] std::string text() const;

 private:
  std::vector<Column> columns_;
  std::size_t flexible_;
  std::vector<std::vector<std::string>> rows_;
};

/// E.g. "12.3 MB"; units of 1000.
[[nodiscard]] std::string format_bytes(std::uint64_t bytes);
/// A duration with its unit, e.g. "812 ns", "1.234 ms".
[[nodiscard]] std::string format_seconds(double seconds);
/// printf into a string.
[[nodiscard, gnu::format(printf, 1, 2)]] std::string format(const char* pattern, ...);

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_TABLE_HPP_
