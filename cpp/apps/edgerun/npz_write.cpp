#include <bit>

#include "crc32.hpp"
#include "npz.hpp"

namespace edgerun {
namespace {

using edgebuild::Status;

template <typename T>
void append(std::string& bytes, T number) {
  for (std::size_t i = 0; i < sizeof number; ++i) {
    bytes += static_cast<char>(static_cast<std::uint64_t>(number) >> (8 * i) & 0xFFU);
  }
}

constexpr std::uint32_t kMax32 = 0xFFFFFFFF;
constexpr std::uint16_t kUtf8Name = 1U << 11U;
constexpr std::uint16_t kMadeByUnix = 3U << 8U;
constexpr std::uint32_t kMode0600 = 0600U << 16U;   // as numpy.savez sets it
constexpr std::uint16_t kDate1980 = 1U << 5U | 1U;  // the same bytes whenever it is written

std::uint16_t flags_of(std::string_view name) {
  for (const char c : name) {
    if (static_cast<unsigned char>(c) >= 0x80) return kUtf8Name;
  }
  return 0;
}

}  // namespace

NpzWriter::NpzWriter(Sink sink, std::uint64_t zip64_threshold) : sink_(std::move(sink)), threshold_(zip64_threshold) {}

Status NpzWriter::write(std::string_view bytes) {
  written_ += bytes.size();
  return sink_(std::as_bytes(std::span(bytes.data(), bytes.size())));
}

Status NpzWriter::add(std::string_view key, const NpyType& type, std::span<const std::int64_t> shape,
                      std::span<const std::byte> data) {
  const std::string npy = npy_header(type, shape);
  Member member{std::string(key) + ".npy", 0, npy.size() + data.size(), written_};
  member.crc = crc32(data, crc32(std::as_bytes(std::span(npy.data(), npy.size()))));
  const bool wide = member.size >= threshold_;

  std::string header;
  append<std::uint32_t>(header, 0x04034B50);
  append<std::uint16_t>(header, wide ? 45 : 20);
  append<std::uint16_t>(header, flags_of(member.name));
  append<std::uint16_t>(header, 0);  // stored
  append<std::uint16_t>(header, 0);
  append<std::uint16_t>(header, kDate1980);
  append<std::uint32_t>(header, member.crc);
  append<std::uint32_t>(header, wide ? kMax32 : static_cast<std::uint32_t>(member.size));
  append<std::uint32_t>(header, wide ? kMax32 : static_cast<std::uint32_t>(member.size));
  append<std::uint16_t>(header, static_cast<std::uint16_t>(member.name.size()));
  append<std::uint16_t>(header, wide ? 20 : 0);
  header += member.name;
  if (wide) {
    append<std::uint16_t>(header, 1);
    append<std::uint16_t>(header, 16);
    append<std::uint64_t>(header, member.size);
    append<std::uint64_t>(header, member.size);
  }
  EDGEBUILD_RETURN_IF_ERROR(write(header));
  EDGEBUILD_RETURN_IF_ERROR(write(npy));
  EDGEBUILD_RETURN_IF_ERROR(write({reinterpret_cast<const char*>(data.data()), data.size()}));
  members_.push_back(std::move(member));
  return {};
}

Status NpzWriter::finish() {
  const std::uint64_t start = written_;
  std::string directory;
  for (const Member& member : members_) {
    const bool wide_size = member.size >= threshold_;
    const bool wide_offset = member.offset >= threshold_;
    const unsigned extra = (wide_size ? 16U : 0U) + (wide_offset ? 8U : 0U);
    const std::uint16_t version = extra != 0 ? 45 : 20;
    append<std::uint32_t>(directory, 0x02014B50);
    append<std::uint16_t>(directory, static_cast<std::uint16_t>(kMadeByUnix | version));
    append<std::uint16_t>(directory, version);
    append<std::uint16_t>(directory, flags_of(member.name));
    append<std::uint16_t>(directory, 0);
    append<std::uint16_t>(directory, 0);
    append<std::uint16_t>(directory, kDate1980);
    append<std::uint32_t>(directory, member.crc);
    append<std::uint32_t>(directory, wide_size ? kMax32 : static_cast<std::uint32_t>(member.size));
    append<std::uint32_t>(directory, wide_size ? kMax32 : static_cast<std::uint32_t>(member.size));
    append<std::uint16_t>(directory, static_cast<std::uint16_t>(member.name.size()));
    append<std::uint16_t>(directory, static_cast<std::uint16_t>(extra != 0 ? extra + 4 : 0));
    append<std::uint16_t>(directory, 0);  // comment
    append<std::uint16_t>(directory, 0);  // volume
    append<std::uint16_t>(directory, 0);
    append<std::uint32_t>(directory, kMode0600);
    append<std::uint32_t>(directory, wide_offset ? kMax32 : static_cast<std::uint32_t>(member.offset));
    directory += member.name;
    if (extra != 0) {
      append<std::uint16_t>(directory, 1);
      append<std::uint16_t>(directory, static_cast<std::uint16_t>(extra));
      if (wide_size) append<std::uint64_t>(directory, member.size);
      if (wide_size) append<std::uint64_t>(directory, member.size);
      if (wide_offset) append<std::uint64_t>(directory, member.offset);
    }
  }
  const std::uint64_t size = directory.size();
  const std::uint64_t count = members_.size();
  const bool wide = count >= 0xFFFF || size >= threshold_ || start >= threshold_;
  if (wide) {
    const std::uint64_t end64 = start + size;
    append<std::uint32_t>(directory, 0x06064B50);
    append<std::uint64_t>(directory, 44);
    append<std::uint16_t>(directory, kMadeByUnix | 45U);
    append<std::uint16_t>(directory, 45);
    append<std::uint32_t>(directory, 0);
    append<std::uint32_t>(directory, 0);
    append<std::uint64_t>(directory, count);
    append<std::uint64_t>(directory, count);
    append<std::uint64_t>(directory, size);
    append<std::uint64_t>(directory, start);
    append<std::uint32_t>(directory, 0x07064B50);
    append<std::uint32_t>(directory, 0);
    append<std::uint64_t>(directory, end64);
    append<std::uint32_t>(directory, 1);
  }
  append<std::uint32_t>(directory, 0x06054B50);
  append<std::uint16_t>(directory, 0);
  append<std::uint16_t>(directory, 0);
  append<std::uint16_t>(directory, static_cast<std::uint16_t>(wide ? 0xFFFF : count));
  append<std::uint16_t>(directory, static_cast<std::uint16_t>(wide ? 0xFFFF : count));
  append<std::uint32_t>(directory, wide ? kMax32 : static_cast<std::uint32_t>(size));
  append<std::uint32_t>(directory, wide ? kMax32 : static_cast<std::uint32_t>(start));
  append<std::uint16_t>(directory, 0);
  return write(directory);
}

}  // namespace edgerun
