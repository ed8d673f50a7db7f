// From an archive to a folder of the cache, named by the bundle's id.

#ifndef EDGEBUILD_SRC_BUNDLE_UNPACK_HPP_
#define EDGEBUILD_SRC_BUNDLE_UNPACK_HPP_

#include <filesystem>
#include <string>

#include "bundle/archive.hpp"
#include "bundle/directory.hpp"
#include "bundle/file_system.hpp"
#include "bundle/manifest.hpp"
#include "edgebuild/status.hpp"

namespace edgebuild::bundle {

/// An archive whose structure and manifest were checked; its files' bytes not yet.
struct OpenArchive {
  FileDescriptor fd;
  ArchiveIndex index;
  ManifestText text;
  Manifest manifest;
};

/// Checks an archive's structure, its manifest, and that the two agree.
Result<OpenArchive> open_archive(FileDescriptor fd);

/// A folder of the cache that holds the unpacked bundle.
struct Unpacked {
  std::filesystem::path path;
  FileDescriptor root;
  bool reused = false;  ///< It was there already: the archive's file bytes were not read.
};

/// Unpacks into `cache_dir`/ID, or takes what is there if it is structurally sound.
///
/// The files are written beside it, hashed on the way, and made visible in one rename; a failure leaves nothing behind,
/// and what a killed process left is removed by the next one that unpacks. Any number of processes may do this at once.
///
/// @return kCorrupt; kResourceExhausted (disk full); kIo (the cache can't be written).
Result<Unpacked> unpack(const OpenArchive& archive, const std::string& cache_dir, const HashCounters& counters);

/// Hashes every listed file inside the archive.
Status verify_archive(const OpenArchive& archive, const HashCounters& counters,
                      const std::function<void(const std::string&, std::uint64_t)>& done);

}  // namespace edgebuild::bundle

#endif  // EDGEBUILD_SRC_BUNDLE_UNPACK_HPP_
