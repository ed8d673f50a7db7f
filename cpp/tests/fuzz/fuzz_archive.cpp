// The archive walker on any bytes: no crash; and an archive that is accepted is exactly what the writer makes of its
// members, so no two archives hold the same files.
//
// Its mutator repairs checksums and knows where headers lie; without it no random change gets past the first header.

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>

#include "bundle/archive.hpp"
#include "bundle/file_system.hpp"
#include "bundle/unpack.hpp"
#include "support.hpp"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned int seed);
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

namespace bundle = edgebuild::bundle;
namespace testing = edgebuild::testing;

void require(bool condition) {
  if (!condition) std::abort();
}

std::string seed_archive(std::mt19937& random) {
  testing::Files files;
  if (random() % 2 == 0) files = testing::sample_files();
  const testing::Json manifest = testing::sample_manifest(testing::sample_files());
  return testing::tar(testing::tar_entries(testing::with_manifest(files, manifest.dump())));
}

void repair_checksum(std::uint8_t* header) {
  std::memset(header + 148, ' ', 8);
  unsigned sum = 0;
  for (std::size_t i = 0; i < 512; ++i) sum += header[i];
  char text[16];
  std::snprintf(text, sizeof text, "%06o", sum);
  std::memcpy(header + 148, text, 7);
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned int seed) {
  std::mt19937 random(seed);
  if (size < 512 || random() % 50 == 0) {
    const std::string archive = seed_archive(random);
    if (archive.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
    std::memcpy(data, archive.data(), archive.size());
    size = archive.size();
  }
  const std::size_t blocks = size / 512;
  std::uint8_t* block = data + random() % blocks * 512;
  static const std::size_t kFields[] = {0, 100, 124, 136, 156, 157, 257, 345, 500};
  switch (random() % 5) {
    case 0:
      return LLVMFuzzerMutate(data, size, max_size);
    case 1:  // a header's field, with a checksum that fits
      block[kFields[random() % std::size(kFields)] + random() % 12] ^= static_cast<std::uint8_t>(1u << random() % 8);
      repair_checksum(block);
      return size;
    case 2:  // a character that a path may have
      block[random() % 100] = static_cast<std::uint8_t>("/.am0-"[random() % 6]);
      repair_checksum(block);
      return size;
    case 3: {  // one block fewer
      const auto after = static_cast<std::size_t>(data + size - (block + 512));
      std::memmove(block, block + 512, after);
      return size - 512;
    }
    default: {  // one block twice
      if (size + 512 > max_size) return size;
      const auto after = static_cast<std::size_t>(data + size - block);
      std::memmove(block + 512, block, after);
      return size + 512;
    }
  }
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const bundle::FileDescriptor fd(::memfd_create("archive", MFD_CLOEXEC));
  require(fd.get() >= 0);
  require(bundle::write_all(fd.get(), data, size, "memfd").ok());
  const auto index = bundle::read_index(fd.get());
  if (!index.ok()) {
    require(index.status().code() == edgebuild::Code::kCorrupt);
    require(index.status().message().find('\n') == std::string::npos);
    return 0;
  }
  // Written anew from what was read, it must be the same bytes. The mtime is the one thing that the index drops.
  std::string again;
  const std::string mtime(reinterpret_cast<const char*>(data) + 136, 11);
  for (const auto& [path, member] : index.value().members) {
    const auto header = bundle::make_header(index.value().top + "/" + path, member.size, member.executable,
                                            std::strtoull(mtime.c_str(), nullptr, 8));
    require(header.has_value() && bundle::is_valid_path(path));
    again.append(header->data(), header->size());
    require(member.offset == again.size());
    again.append(reinterpret_cast<const char*>(data) + member.offset, static_cast<std::size_t>(member.size));
    again.resize((again.size() + 511) / 512 * 512, '\0');
  }
  again.append(1024, '\0');
  require(again.size() == size && std::memcmp(again.data(), data, size) == 0);

  const auto archive = bundle::open_archive(bundle::FileDescriptor(::dup(fd.get())));
  if (!archive.ok()) {
    require(archive.status().code() == edgebuild::Code::kCorrupt ||
            archive.status().code() == edgebuild::Code::kIncompatible);
  }
  return 0;
}
