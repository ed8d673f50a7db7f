#include <algorithm>
#include <cstring>
#include <new>
#include <optional>
#include <set>

#include "crc32.hpp"
#include "inflate.hpp"
#include "npz.hpp"

namespace edgerun {
namespace {

using edgebuild::Code;
using edgebuild::Result;
using edgebuild::Status;

// Sizes and signatures of PKWARE's APPNOTE 6.3.
constexpr std::uint32_t kLocalSignature = 0x04034B50;
constexpr std::uint32_t kCentralSignature = 0x02014B50;
constexpr std::uint32_t kEndSignature = 0x06054B50;
constexpr std::uint32_t kEnd64Signature = 0x06064B50;
constexpr std::uint32_t kLocator64Signature = 0x07064B50;
constexpr std::size_t kLocalSize = 30;
constexpr std::size_t kCentralSize = 46;
constexpr std::size_t kEndSize = 22;
constexpr std::size_t kEnd64Size = 56;
constexpr std::size_t kLocator64Size = 20;
constexpr std::uint64_t kMaxMembers = 100000;
// Deflate can't pack better than 1 to 1032: more is a lie that would only cost memory.
constexpr std::uint64_t kMaxRatio = 1032;

template <typename T>
T read(std::span<const std::byte> data, std::uint64_t offset) {
  T number = 0;
  std::memcpy(&number, data.data() + offset, sizeof number);
  return number;
}

struct Directory {
  std::uint64_t entries = 0;
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
};

struct Entry {
  std::string name;
  std::uint16_t flags = 0;
  std::uint16_t method = 0;
  std::uint32_t crc = 0;
  std::uint64_t packed = 0;
  std::uint64_t unpacked = 0;
  std::uint64_t local = 0;
};

class Reader {
 public:
  Reader(std::span<const std::byte> file, std::string_view where) : file_(file), where_(where) {}

  Result<NamedArrays> arrays() {
    Directory directory;
    EDGEBUILD_RETURN_IF_ERROR(find_directory(directory));
    NamedArrays arrays;
    std::set<std::string> names;
    std::uint64_t at = directory.offset;
    const std::uint64_t end = directory.offset + directory.size;
    for (std::uint64_t i = 0; i < directory.entries; ++i) {
      Entry entry;
      EDGEBUILD_RETURN_IF_ERROR(read_entry(at, end, entry));
      if (!entry.name.ends_with(".npy")) return error("member '" + entry.name + "' is not a .npy file");
      if (!names.insert(entry.name).second) return error("two members are named '" + entry.name + "'");
      Result<NpyArray> array = read_member(entry);
      if (!array.ok()) return array.status();
      arrays.emplace_back(entry.name.substr(0, entry.name.size() - 4), std::move(array).value());
    }
    if (at != end) return error("the zip directory is longer than its entries");
    return arrays;
  }

 private:
  Status error(const std::string& what) const { return {Code::kInvalidArgument, std::string(where_) + ": " + what}; }

  Status truncated(const char* what) const {
    return error(std::string("the zip archive is damaged or truncated: ") + what);
  }

  // Whether `size` bytes lie in the file from `offset` on.
  bool inside(std::uint64_t offset, std::uint64_t size) const {
    return offset <= file_.size() && size <= file_.size() - offset;
  }

  Status find_directory(Directory& directory) const {
    if (file_.size() < kEndSize) return error("not a .npz file: too short for a zip archive");
    // A comment of up to 65,535 bytes may follow the end record; its own length field tells a real one.
    std::optional<std::uint64_t> end;
    const std::uint64_t last = file_.size() - kEndSize;
    const std::uint64_t first = last > 0xFFFF ? last - 0xFFFF : 0;
    for (std::uint64_t at = last + 1; at-- > first && !end;) {
      if (read<std::uint32_t>(file_, at) == kEndSignature && read<std::uint16_t>(file_, at + 20) == last - at) end = at;
    }
    if (!end) {
      if (read<std::uint32_t>(file_, 0) != kLocalSignature) return error("not a .npz file: it is not a zip archive");
      return truncated("its end record is missing");
    }
    if (read<std::uint16_t>(file_, *end + 4) != 0 || read<std::uint16_t>(file_, *end + 6) != 0) {
      return error("a zip archive of several volumes");
    }
    directory.entries = read<std::uint16_t>(file_, *end + 10);
    directory.size = read<std::uint32_t>(file_, *end + 12);
    directory.offset = read<std::uint32_t>(file_, *end + 16);
    std::uint64_t limit = *end;
    if (*end >= kLocator64Size && read<std::uint32_t>(file_, *end - kLocator64Size) == kLocator64Signature) {
      const auto at = read<std::uint64_t>(file_, *end - kLocator64Size + 8);
      if (!inside(at, kEnd64Size) || read<std::uint32_t>(file_, at) != kEnd64Signature) {
        return truncated("its zip64 end record is missing");
      }
      directory.entries = read<std::uint64_t>(file_, at + 32);
      directory.size = read<std::uint64_t>(file_, at + 40);
      directory.offset = read<std::uint64_t>(file_, at + 48);
      limit = at;
    }
    if (!inside(directory.offset, directory.size) || directory.offset + directory.size > limit) {
      return truncated("its directory lies outside");
    }
    if (directory.entries > kMaxMembers) {
      return error("has " + std::to_string(directory.entries) + " members; at most " + std::to_string(kMaxMembers));
    }
    return {};
  }

  Status read_entry(std::uint64_t& at, std::uint64_t end, Entry& entry) const {
    if (end - at < kCentralSize || read<std::uint32_t>(file_, at) != kCentralSignature) {
      return truncated("a directory entry is malformed");
    }
    entry.flags = read<std::uint16_t>(file_, at + 8);
    entry.method = read<std::uint16_t>(file_, at + 10);
    entry.crc = read<std::uint32_t>(file_, at + 16);
    entry.packed = read<std::uint32_t>(file_, at + 20);
    entry.unpacked = read<std::uint32_t>(file_, at + 24);
    const std::uint64_t name_size = read<std::uint16_t>(file_, at + 28);
    const std::uint64_t extra_size = read<std::uint16_t>(file_, at + 30);
    const std::uint64_t comment_size = read<std::uint16_t>(file_, at + 32);
    entry.local = read<std::uint32_t>(file_, at + 42);
    if (end - at - kCentralSize < name_size + extra_size + comment_size) {
      return truncated("a directory entry is malformed");
    }
    // Whatever lies inside the file fits into a size_t, also on a 32-bit board.
    entry.name.assign(reinterpret_cast<const char*>(file_.data()) + at + kCentralSize,
                      static_cast<std::size_t>(name_size));
    const auto extra_at = static_cast<std::size_t>(at + kCentralSize + name_size);
    if (!read_zip64(file_.subspan(extra_at, static_cast<std::size_t>(extra_size)), entry)) {
      return truncated("a zip64 field is malformed");
    }
    at += kCentralSize + name_size + extra_size + comment_size;
    return {};
  }

  // The extra field 1 holds, in this order, those of the three numbers that were all ones in the entry itself.
  static bool read_zip64(std::span<const std::byte> extra, Entry& entry) {
    constexpr std::uint64_t kInExtra = 0xFFFFFFFF;
    while (extra.size() >= 4) {
      const auto id = read<std::uint16_t>(extra, 0);
      const std::size_t size = read<std::uint16_t>(extra, 2);
      if (size > extra.size() - 4) return false;
      if (id == 1) {
        std::span<const std::byte> numbers = extra.subspan(4, size);
        for (std::uint64_t* number : {&entry.unpacked, &entry.packed, &entry.local}) {
          if (*number != kInExtra) continue;
          if (numbers.size() < 8) return false;
          *number = read<std::uint64_t>(numbers, 0);
          numbers = numbers.subspan(8);
        }
      }
      extra = extra.subspan(4 + size);
    }
    return true;
  }

  Result<NpyArray> read_member(const Entry& entry) const {
    const std::string member = std::string(where_) + ": member '" + entry.name + "'";
    const auto wrong = [&](const std::string& what) { return Status(Code::kInvalidArgument, member + " " + what); };
    if ((entry.flags & 1U) != 0) return wrong("is encrypted");
    if (!inside(entry.local, kLocalSize) || read<std::uint32_t>(file_, entry.local) != kLocalSignature) {
      return wrong("lies outside of the file: the archive is damaged or truncated");
    }
    const std::uint64_t name_size = read<std::uint16_t>(file_, entry.local + 26);
    const std::uint64_t extra_size = read<std::uint16_t>(file_, entry.local + 28);
    const std::uint64_t start = entry.local + kLocalSize + name_size + extra_size;
    if (!inside(start, entry.packed)) {
      return wrong("lies outside of the file: the archive is damaged or truncated");
    }
    const std::string_view local_name(reinterpret_cast<const char*>(file_.data()) + entry.local + kLocalSize,
                                      static_cast<std::size_t>(name_size));
    if (local_name != entry.name || read<std::uint16_t>(file_, entry.local + 8) != entry.method) {
      return wrong("differs between the zip directory and its own header: the archive is damaged");
    }
    const std::span<const std::byte> packed =
        file_.subspan(static_cast<std::size_t>(start), static_cast<std::size_t>(entry.packed));
    if (entry.method == 0) {
      if (entry.packed != entry.unpacked) return wrong("has two different sizes: the archive is damaged");
      if (crc32(packed) != entry.crc) return wrong("is damaged: its CRC-32 is wrong");
      return parse_npy(packed, member);
    }
    if (entry.method != 8) {
      return wrong("is packed by method " + std::to_string(entry.method) + "; expected stored or deflate");
    }
    if (entry.packed > kInflateLimit || entry.unpacked > kInflateLimit) {
      return wrong("is compressed and larger than 2 GiB; save it with numpy.savez (not savez_compressed)");
    }
    if (entry.unpacked > entry.packed * kMaxRatio) return wrong("is damaged: its sizes can't be true");
    std::vector<std::byte> unpacked(static_cast<std::size_t>(entry.unpacked));
    if (!inflate(packed, unpacked)) return wrong("is damaged: its compressed data is malformed");
    if (crc32(unpacked) != entry.crc) return wrong("is damaged: its CRC-32 is wrong");
    Result<NpyArray> array = parse_npy(unpacked, member);
    // A vector's bytes stay where they are when it moves, so `data` may keep pointing into it.
    if (array.ok() && array.value().storage.empty()) array.value().storage = std::move(unpacked);
    return array;
  }

  std::span<const std::byte> file_;
  std::string_view where_;
};

}  // namespace

Result<NamedArrays> parse_npz(std::span<const std::byte> file, std::string_view where) {
  try {
    return Reader(file, where).arrays();
  } catch (const std::bad_alloc&) {
    return Status(Code::kResourceExhausted, std::string(where) + ": not enough memory for its arrays");
  }
}

}  // namespace edgerun
