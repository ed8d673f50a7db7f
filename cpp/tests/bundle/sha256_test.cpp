#include "bundle/sha256.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <string>

namespace edgebuild::bundle {
namespace {

std::string hash(Sha256Path path, const std::string& text) {
  Sha256 sha(path);
  sha.update(text.data(), text.size());
  return to_hex(sha.finish());
}

TEST_CASE("every SHA-256 path gives the digests of NIST's examples") {
  for (const Sha256Path path : sha256_paths()) {
    CAPTURE(sha256_path_name(path));
    CHECK(hash(path, "") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK(hash(path, "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK(hash(path, "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
          "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    CHECK(
        hash(path,
             "abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrst"
             "nopqrstu") == "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1");
    CHECK(hash(path, std::string(1000000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  }
}

TEST_CASE("every SHA-256 path agrees with the portable one on random lengths, however the bytes are split") {
  std::mt19937 random(20261122);
  std::string bytes(5000, '\0');
  for (char& c : bytes) c = static_cast<char>(random() & 0xff);
  for (int round = 0; round < 500; ++round) {
    const std::size_t begin = random() % 64;  // unaligned starts as well
    const std::size_t size = round < 200 ? static_cast<std::size_t>(round) : random() % (bytes.size() - 64);
    const std::string expected = hash(Sha256Path::kPortable, bytes.substr(begin, size));
    for (const Sha256Path path : sha256_paths()) {
      Sha256 sha(path);
      for (std::size_t done = 0; done < size;) {
        const std::size_t piece = std::min<std::size_t>(random() % 200, size - done);
        sha.update(bytes.data() + begin + done, piece);
        done += piece;
      }
      CAPTURE(sha256_path_name(path));
      CAPTURE(size);
      CHECK(to_hex(sha.finish()) == expected);
    }
  }
}

TEST_CASE("SHA-256 takes a null pointer for no bytes") {
  Sha256 sha;
  sha.update(nullptr, 0);
  CHECK(to_hex(sha.finish()) == sha256_hex("", 0));
}

}  // namespace
}  // namespace edgebuild::bundle
