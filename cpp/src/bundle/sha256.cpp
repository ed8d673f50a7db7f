#include "bundle/sha256.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

namespace edgebuild::bundle {
namespace internal {

// FIPS 180-4, section 4.2.2. Aligned for the vector paths' loads.
alignas(16) const std::uint32_t kSha256RoundConstants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

void sha256_compress_portable(std::uint32_t* state, const std::uint8_t* blocks, std::size_t count) {
  for (; count > 0; --count, blocks += 64) {
    std::uint32_t w[64];
    for (std::size_t t = 0; t < 16; ++t) {
      const std::uint8_t* p = blocks + 4 * t;
      w[t] = std::uint32_t{p[0]} << 24 | std::uint32_t{p[1]} << 16 | std::uint32_t{p[2]} << 8 | std::uint32_t{p[3]};
    }
    for (std::size_t t = 16; t < 64; ++t) {
      const std::uint32_t s0 = std::rotr(w[t - 15], 7) ^ std::rotr(w[t - 15], 18) ^ (w[t - 15] >> 3);
      const std::uint32_t s1 = std::rotr(w[t - 2], 17) ^ std::rotr(w[t - 2], 19) ^ (w[t - 2] >> 10);
      w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
    std::uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    std::uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (std::size_t t = 0; t < 64; ++t) {
      const std::uint32_t sum1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
      const std::uint32_t t1 = h + sum1 + ((e & f) ^ (~e & g)) + kSha256RoundConstants[t] + w[t];
      const std::uint32_t sum0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
      const std::uint32_t t2 = sum0 + ((a & b) ^ (a & c) ^ (b & c));
      h = g;
      g = f;
      f = e;
      e = d + t1;
      d = c;
      c = b;
      b = a;
      a = t1 + t2;
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
    state[5] += f;
    state[6] += g;
    state[7] += h;
  }
}

}  // namespace internal

const char* sha256_path_name(Sha256Path path) noexcept {
  switch (path) {
    case Sha256Path::kShaNi:
      return "sha-ni";
    case Sha256Path::kArmv8:
      return "armv8";
    case Sha256Path::kPortable:
      break;
  }
  return "portable";
}

const std::vector<Sha256Path>& sha256_paths() {
  static const std::vector<Sha256Path> paths = [] {
    std::vector<Sha256Path> found;
    if (internal::sha256_has_shani()) found.push_back(Sha256Path::kShaNi);
    if (internal::sha256_has_armv8()) found.push_back(Sha256Path::kArmv8);
    found.push_back(Sha256Path::kPortable);
    return found;
  }();
  return paths;
}

Sha256::Sha256() : Sha256(sha256_paths().front()) {}

Sha256::Sha256(Sha256Path path) noexcept
    : compress_(path == Sha256Path::kShaNi   ? internal::sha256_compress_shani
                : path == Sha256Path::kArmv8 ? internal::sha256_compress_armv8
                                             : internal::sha256_compress_portable),
      state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19},
      buffer_{} {}

void Sha256::update(const void* data, std::size_t size) noexcept {
  if (size == 0) return;
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  const auto waiting = static_cast<std::size_t>(size_ % 64);
  size_ += size;
  if (waiting > 0) {
    const std::size_t taken = std::min(size, 64 - waiting);
    std::memcpy(buffer_.data() + waiting, bytes, taken);
    if (waiting + taken < 64) return;
    compress_(state_.data(), buffer_.data(), 1);
    bytes += taken;
    size -= taken;
  }
  if (size >= 64) {
    compress_(state_.data(), bytes, size / 64);
    bytes += size / 64 * 64;
    size %= 64;
  }
  if (size > 0) std::memcpy(buffer_.data(), bytes, size);
}

Sha256Digest Sha256::finish() noexcept {
  const std::uint64_t bits = size_ * 8;
  const auto waiting = static_cast<std::size_t>(size_ % 64);
  std::uint8_t tail[128] = {};
  std::memcpy(tail, buffer_.data(), waiting);
  tail[waiting] = 0x80;
  const std::size_t blocks = waiting < 56 ? 1 : 2;
  for (std::size_t i = 0; i < 8; ++i) tail[blocks * 64 - 1 - i] = static_cast<std::uint8_t>(bits >> (8 * i));
  compress_(state_.data(), tail, blocks);
  Sha256Digest digest;
  for (std::size_t i = 0; i < digest.size(); ++i) {
    digest[i] = static_cast<std::uint8_t>(state_[i / 4] >> (24 - 8 * (i % 4)));
  }
  return digest;
}

std::string to_hex(const Sha256Digest& digest) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * digest.size());
  for (const std::uint8_t byte : digest) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

std::string sha256_hex(const void* data, std::size_t size) {
  Sha256 hash;
  hash.update(data, size);
  return to_hex(hash.finish());
}

}  // namespace edgebuild::bundle
