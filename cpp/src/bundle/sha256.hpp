// SHA-256 (FIPS 180-4), incremental, with the processor's own instructions where it has them.

#ifndef EDGEBUILD_SRC_BUNDLE_SHA256_HPP_
#define EDGEBUILD_SRC_BUNDLE_SHA256_HPP_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace edgebuild::bundle {

/// How the compression function is computed. All give the same digests.
enum class Sha256Path { kPortable, kShaNi, kArmv8 };

/// The path's name for reports: "portable", "sha-ni", "armv8".
[[nodiscard]] const char* sha256_path_name(Sha256Path path) noexcept;
/// The paths that this processor can run, the fastest first. Never empty.
[[nodiscard]] const std::vector<Sha256Path>& sha256_paths();

using Sha256Digest = std::array<std::uint8_t, 32>;

class Sha256 {
 public:
  /// Takes the fastest path.
  Sha256();
  /// @param path One of sha256_paths().
  explicit Sha256(Sha256Path path) noexcept;

  /// Appends `size` bytes. `data` may be null if `size` is 0.
  void update(const void* data, std::size_t size) noexcept;
  /// The digest of all that was appended. Afterwards the object is used up.
  [[nodiscard]] Sha256Digest finish() noexcept;

 private:
  using Compress = void (*)(std::uint32_t* state, const std::uint8_t* blocks, std::size_t count);
  Compress compress_;
  std::array<std::uint32_t, 8> state_;
  std::array<std::uint8_t, 64> buffer_;
  std::uint64_t size_ = 0;  ///< Bytes so far; the last size_ % 64 of them wait in `buffer_`.
};

/// 64 lower-case hexadecimal digits.
[[nodiscard]] std::string to_hex(const Sha256Digest& digest);
[[nodiscard]] std::string sha256_hex(const void* data, std::size_t size);

namespace internal {

extern const std::uint32_t kSha256RoundConstants[64];

/// Each takes `count` blocks of 64 bytes. The last two only exist (and are only called) where the processor fits.
void sha256_compress_portable(std::uint32_t* state, const std::uint8_t* blocks, std::size_t count);
void sha256_compress_shani(std::uint32_t* state, const std::uint8_t* blocks, std::size_t count);
void sha256_compress_armv8(std::uint32_t* state, const std::uint8_t* blocks, std::size_t count);
[[nodiscard]] bool sha256_has_shani() noexcept;
[[nodiscard]] bool sha256_has_armv8() noexcept;

}  // namespace internal
}  // namespace edgebuild::bundle

#endif  // EDGEBUILD_SRC_BUNDLE_SHA256_HPP_
