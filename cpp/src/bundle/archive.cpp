#include "bundle/archive.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "bundle/file_system.hpp"
#include "bundle/json.hpp"
#include "bundle/manifest_reader.hpp"

namespace edgebuild::bundle {
namespace {

struct Field {
  const char* name;
  std::size_t offset;
  std::size_t size;
};
constexpr Field kName = {"name", 0, 100};
constexpr Field kMode = {"mode", 100, 8};
constexpr Field kUid = {"uid", 108, 8};
constexpr Field kGid = {"gid", 116, 8};
constexpr Field kSize = {"size", 124, 12};
constexpr Field kMtime = {"mtime", 136, 12};
constexpr Field kChecksum = {"chksum", 148, 8};
constexpr Field kType = {"typeflag", 156, 1};
constexpr Field kLinkName = {"linkname", 157, 100};
constexpr Field kMagic = {"magic", 257, 6};
constexpr Field kVersion = {"version", 263, 2};
constexpr Field kUser = {"uname", 265, 32};
constexpr Field kGroup = {"gname", 297, 32};
constexpr Field kDevMajor = {"devmajor", 329, 8};
constexpr Field kDevMinor = {"devminor", 337, 8};
constexpr Field kPrefix = {"prefix", 345, 155};
constexpr Field kPadding = {"padding", 500, 12};
constexpr Field kFields[] = {kName,  kMode,    kUid,  kGid,   kSize,     kMtime,    kChecksum, kType,   kLinkName,
                             kMagic, kVersion, kUser, kGroup, kDevMajor, kDevMinor, kPrefix,   kPadding};

constexpr std::uint64_t kMaxOctal = (std::uint64_t{1} << 33) - 1;  // 11 octal digits
constexpr std::uint64_t kEndBytes = 2 * kBlock;
constexpr const char* kExecutableMode = "0000755";

void put(ArchiveHeader& header, const Field& field, std::string_view text) {
  std::copy(text.begin(), text.end(), header.data() + field.offset);  // may be empty and null: no memcpy
}

void put_octal(ArchiveHeader& header, const Field& field, std::uint64_t value) {
  char digits[12];
  std::snprintf(digits, sizeof digits, "%011llo", static_cast<unsigned long long>(value));
  put(header, field, digits);
}

/// A field up to its first NUL.
std::string_view text_of(const ArchiveHeader& header, const Field& field) {
  const char* begin = header.data() + field.offset;
  return {begin, static_cast<std::size_t>(std::find(begin, begin + field.size, '\0') - begin)};
}

/// Eleven octal digits; nothing if the field holds anything else.
std::optional<std::uint64_t> octal_of(const ArchiveHeader& header, const Field& field) {
  const std::string_view text = text_of(header, field);
  if (text.size() != 11) return std::nullopt;
  std::uint64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '7') return std::nullopt;
    value = value * 8 + static_cast<std::uint64_t>(c - '0');
  }
  return value;
}

struct Parsed {
  std::string path;
  std::uint64_t size = 0;
  std::uint64_t mtime = 0;
  bool executable = false;
};

/// Reads what varies in a header, renders the header anew from it and compares, so that there is one description of it.
Result<Parsed> parse_header(const ArchiveHeader& header) {
  Parsed parsed;
  parsed.path = text_of(header, kPrefix);
  if (!parsed.path.empty()) parsed.path += '/';
  parsed.path += text_of(header, kName);
  const auto size = octal_of(header, kSize);
  const auto mtime = octal_of(header, kMtime);
  if (!size || !mtime) return Status(Code::kCorrupt, "not the header of a bundle's archive");
  parsed.size = *size;
  parsed.mtime = *mtime;
  parsed.executable = text_of(header, kMode) == kExecutableMode;
  const auto expected = make_header(parsed.path, parsed.size, parsed.executable, parsed.mtime);
  if (!expected) {
    return Status(Code::kCorrupt, "the path " + json::in_quotes(parsed.path) + " can't be written like this");
  }
  for (const Field& field : kFields) {
    if (std::memcmp(header.data() + field.offset, expected->data() + field.offset, field.size) != 0) {
      return Status(Code::kCorrupt, "the header field " + std::string(field.name) + " of " +
                                        json::in_quotes(parsed.path) + " is not as the format says");
    }
  }
  return parsed;
}

bool is_zero(const char* data, std::size_t size) {
  return std::all_of(data, data + size, [](char c) { return c == '\0'; });
}

}  // namespace

std::optional<ArchiveHeader> make_header(std::string_view path, std::uint64_t size, bool executable,
                                         std::uint64_t mtime) {
  std::string_view name = path;
  std::string_view prefix;
  if (name.size() > kName.size) {
    const std::size_t slash = path.rfind('/', kPrefix.size);  // the last one with at most 155 bytes before it
    if (slash == std::string_view::npos || path.size() - slash - 1 > kName.size) return std::nullopt;
    prefix = path.substr(0, slash);
    name = path.substr(slash + 1);
  }
  if (size > kMaxOctal || mtime > kMaxOctal) return std::nullopt;

  ArchiveHeader header = {};
  put(header, kName, name);
  put(header, kMode, executable ? kExecutableMode : "0000644");
  put(header, kUid, "0000000");
  put(header, kGid, "0000000");
  put_octal(header, kSize, size);
  put_octal(header, kMtime, mtime);
  put(header, kChecksum, "        ");  // counted as spaces
  put(header, kType, "0");
  put(header, kMagic, "ustar");
  put(header, kVersion, "00");
  put(header, kUser, "root");
  put(header, kGroup, "root");
  put(header, kDevMajor, "0000000");
  put(header, kDevMinor, "0000000");
  put(header, kPrefix, prefix);
  unsigned sum = 0;
  for (const char c : header) sum += static_cast<unsigned char>(c);
  char checksum[16];
  std::snprintf(checksum, sizeof checksum, "%06o", sum);
  put(header, kChecksum, std::string_view(checksum, 7));  // six digits, NUL; the space is there already
  return header;
}

Result<ArchiveIndex> read_index(int fd) {
  const Result<std::uint64_t> file_size = regular_file_size(fd, "archive");
  if (!file_size.ok()) return file_size.status();
  const std::uint64_t total = file_size.value();
  ArchiveIndex index;
  std::string last;
  std::uint64_t mtime = 0;
  // Each read takes the padding after a file together with the next header.
  std::array<char, 2 * kBlock> buffer;
  std::uint64_t offset = 0;
  std::size_t padding = 0;
  for (;;) {
    const auto refuse = [&offset](const std::string& what) {
      return Status(Code::kCorrupt, "archive, byte " + std::to_string(offset) + ": " + what);
    };
    if (total - offset < padding + kBlock) return refuse("truncated, or not a bundle");
    EDGEBUILD_RETURN_IF_ERROR(read_at(fd, buffer.data(), padding + kBlock, offset, "archive"));
    if (!is_zero(buffer.data(), padding)) return refuse("the padding after " + last + " is not zero");
    offset += padding;
    ArchiveHeader header;
    std::memcpy(header.data(), buffer.data() + padding, kBlock);
    if (is_zero(header.data(), kBlock)) break;

    const Result<Parsed> parsed = parse_header(header);
    if (!parsed.ok()) return refuse(parsed.status().message());
    const Parsed& entry = parsed.value();
    const std::size_t slash = entry.path.find('/');
    const std::string top = entry.path.substr(0, slash);
    const std::string path = slash == std::string::npos ? std::string() : entry.path.substr(slash + 1);
    if (!is_valid_segment(top) || !is_valid_path(path)) {
      return refuse("not a path that a bundle may hold: " + json::in_quotes(entry.path));
    }
    if (index.members.empty()) {
      index.top = top;
      mtime = entry.mtime;
    }
    if (top != index.top) return refuse("expected the top folder " + index.top + ", got " + top);
    if (entry.mtime != mtime) return refuse("the headers' mtime differ");
    if (entry.path <= last) return refuse(entry.path + " after " + last + ": expected ascending paths, each once");
    if (index.members.size() >= kMaxFiles + 3) return refuse("more than " + std::to_string(kMaxFiles) + " files");
    offset += kBlock;
    if (entry.size > total - offset) return refuse(entry.path + " goes beyond the end: truncated");
    index.members.emplace(path, ArchiveMember{offset, entry.size, entry.executable});
    offset += entry.size;
    padding = static_cast<std::size_t>((kBlock - entry.size % kBlock) % kBlock);
    last = entry.path;
  }
  std::array<char, kBlock> second = {};
  if (index.members.empty() || total - offset != kEndBytes) {
    return Status(Code::kCorrupt, "archive, byte " + std::to_string(offset) +
                                      ": expected two blocks of zeros and the end, got " +
                                      std::to_string(total - offset) + " bytes");
  }
  EDGEBUILD_RETURN_IF_ERROR(read_at(fd, second.data(), kBlock, offset + kBlock, "archive"));
  if (!is_zero(second.data(), kBlock)) return Status(Code::kCorrupt, "archive: the last block is not zero");
  return index;
}

Status check_members(const ArchiveIndex& index, const Manifest& manifest) {
  const std::string top = manifest.name + "." + manifest.target_name;
  if (index.top != top) {
    return Status(Code::kCorrupt, "archive: expected the top folder " + top + ", got " + index.top);
  }
  std::size_t listed = 0;
  for (const auto& [path, member] : index.members) {
    if (path == "manifest.json" || path == "manifest.sha256" || path == "manifest.sig") {
      if (member.executable) return Status(Code::kCorrupt, "archive: expected mode 0644 of " + path + ", got 0755");
      if (path == "manifest.sig" && member.size > kMaxSignatureBytes) {
        return Status(Code::kCorrupt,
                      "archive: manifest.sig: expected at most 65536 bytes, got " + std::to_string(member.size));
      }
      continue;
    }
    const auto entry = manifest.files.find(path);
    if (entry == manifest.files.end()) {
      return Status(Code::kCorrupt, "archive: " + path + " is not listed in manifest.json");
    }
    if (entry->second.size != member.size) {
      return Status(Code::kCorrupt, "archive: " + path + ": expected " + std::to_string(entry->second.size) +
                                        " bytes, got " + std::to_string(member.size));
    }
    if (entry->second.executable != member.executable) {
      return Status(Code::kCorrupt, "archive: " + path + ": the mode is not the manifest's");
    }
    ++listed;
  }
  if (listed == manifest.files.size()) return {};
  for (const auto& [path, entry] : manifest.files) {
    if (index.members.find(path) == index.members.end())
      return Status(Code::kCorrupt, "archive: " + path + " is missing");
  }
  return Status(Code::kInternal, "archive: the count of files does not add up");
}

}  // namespace edgebuild::bundle
