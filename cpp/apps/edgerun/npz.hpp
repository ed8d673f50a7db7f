// NumPy's .npz format: a zip archive of .npy files. What is read is untrusted.

#ifndef EDGEBUILD_APPS_EDGERUN_NPZ_HPP_
#define EDGEBUILD_APPS_EDGERUN_NPZ_HPP_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "edgebuild/status.hpp"
#include "npy.hpp"

namespace edgerun {

/// Arrays by key, in the archive's order.
using NamedArrays = std::vector<std::pair<std::string, NpyArray>>;

/// Parses a whole .npz file, as numpy.savez or numpy.savez_compressed writes it, also with zip64.
///
/// Every member's CRC-32 is checked. Stored data that is aligned is not copied: such arrays refer to `file`.
///
/// @return kInvalidArgument, beginning with `where`: not a zip archive, damaged, encrypted, a method other than stored
/// and
///         deflate, a member that is not a .npy file, two with one name; kResourceExhausted: not enough memory.
[[nodiscard]] edgebuild::Result<NamedArrays> parse_npz(std::span<const std::byte> file, std::string_view where);

/// Writes an archive of stored members piece by piece, as numpy.savez does; zip64 where sizes need it.
class NpzWriter {
 public:
  using Sink = std::function<edgebuild::Status(std::span<const std::byte>)>;

  /// @param sink              Receives the archive's bytes in order.
  /// @param zip64_threshold  From this size or offset on, zip64 is used; lower only in tests.
  explicit NpzWriter(Sink sink, std::uint64_t zip64_threshold = 0xFFFFFFFF);

  /// Adds `key`.npy. `data` is little endian, in C order, as long as type and shape need. What the sink returns.
  edgebuild::Status add(std::string_view key, const NpyType& type, std::span<const std::int64_t> shape,
                        std::span<const std::byte> data);
  /// Writes the directory. Nothing may be added afterwards.
  edgebuild::Status finish();

 private:
  struct Member {
    std::string name;
    std::uint32_t crc;
    std::uint64_t size;
    std::uint64_t offset;
  };

  edgebuild::Status write(std::string_view bytes);

  Sink sink_;
  std::uint64_t threshold_;
  std::uint64_t written_ = 0;
  std::vector<Member> members_;
};

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_NPZ_HPP_
