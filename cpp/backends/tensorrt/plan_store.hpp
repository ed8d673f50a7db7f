// Plans in the state folder: what each was built for, one builder at a time, and which have passed their goldens.
//
// Knows nothing of TensorRT. In STATE/plans, by model and recipe (ID):
//   ID.plan       passed the goldens; loads use it
//   ID.plan.new   built, no verdict yet; only a preparation looks at it
//   timing.cache  what TensorRT measured on this machine
//   lock          held while something is built or judged

#ifndef EDGEBUILD_BACKENDS_TENSORRT_PLAN_STORE_HPP_
#define EDGEBUILD_BACKENDS_TENSORRT_PLAN_STORE_HPP_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "bundle/bundle.hpp"
#include "tensorrt/kept_file.hpp"

namespace edgebuild::tensorrt {

/// What a plan holds for on a machine, in words that are compared and shown.
struct MachineKey {
  std::string tensorrt;  ///< E.g. "10.3.0.26".
  std::string cuda;      ///< Of the runtime library, e.g. "12.6".
  std::string gpu;       ///< Name, compute capability, multiprocessors.
};

/// What a plan was built for.
struct PlanKey {
  std::string model;   ///< SHA-256 over the model's files.
  std::string recipe;  ///< Recipe::text().
  MachineKey machine;

  /// The plan's name: by model and recipe, so that another machine's plan is found, and said, and replaced.
  [[nodiscard]] std::string id() const;
};

/// Hears a step's name, and of it `done` of `total` (0: unknown).
using Progress = std::function<void(std::string_view step, std::uint32_t done, std::uint32_t total)>;

/// A builder's right to be the only one; given back at the end of its life, also by a process that dies.
class BuilderLock {
 public:
  explicit BuilderLock(bundle::FileDescriptor file) noexcept : file_(std::move(file)) {}

 private:
  bundle::FileDescriptor file_;
};

class PlanStore {
 public:
  /// @param state_dir  Need not exist. @param user  Whose files are believed, beside root's.
  PlanStore(const std::string& state_dir, uid_t user);

  /// The plan for `key` that passed its goldens. Damaged ones, others' and those of another machine are never given.
  /// @return kNotFound, with the reason why there is none that can be used.
  [[nodiscard]] Result<Bytes> ready(const PlanKey& key) const;
  /// The plan that was built and never judged; likewise.
  [[nodiscard]] Result<Bytes> pending(const PlanKey& key) const;

  /// Makes the folder, waits until no other process builds here, and removes what a builder that died left behind.
  /// @return kUsage, kIo or kResourceExhausted if the folder or the lock can't be made.
  [[nodiscard]] Result<BuilderLock> lock(const Progress& progress) const;
  // The rest only while the lock is held.

  /// Keeps a plan that was built; `driver` is recorded for people. An older unjudged one is replaced.
  [[nodiscard]] Status keep(const PlanKey& key, const std::string& driver, std::span<const std::byte> plan) const;
  /// The verdict: the unjudged plan becomes the ready one, or is removed.
  [[nodiscard]] Status settle(const PlanKey& key, bool good) const;
  /// Removes both plans.
  [[nodiscard]] Status remove(const PlanKey& key) const;

  /// What TensorRT measured earlier on such a machine; nothing if there is none that can be believed.
  [[nodiscard]] std::optional<Bytes> timing_cache(const MachineKey& machine) const;
  [[nodiscard]] Status keep_timing_cache(const MachineKey& machine, std::span<const std::byte> cache) const;

  [[nodiscard]] const std::string& folder() const noexcept { return folder_; }

 private:
  [[nodiscard]] Result<Bytes> read_plan(const PlanKey& key, const std::string& name) const;

  std::string folder_;
  uid_t user_;
};

/// What a build needs, checked before it begins.
struct BuildNeeds {
  std::uint64_t disk_bytes = 0;
  std::uint64_t host_bytes = 0;
  std::uint64_t device_bytes = 0;
};

/// By experience: a plan takes about what its weights take, TensorRT holds the network several times over while it
/// builds.
[[nodiscard]] BuildNeeds build_needs(std::uint64_t model_bytes, std::uint64_t workspace_mib);

/// What is free; nothing where the system does not say it.
struct FreeSpace {
  std::optional<std::uint64_t> disk_bytes;
  std::optional<std::uint64_t> host_bytes;
  std::optional<std::uint64_t> device_bytes;
};

/// Disk of `folder` (or the nearest above it that exists) and memory of the host. `meminfo` is a path (for tests).
[[nodiscard]] FreeSpace free_space(const std::string& folder, const std::string& meminfo = "/proc/meminfo");

/// @return kResourceExhausted, naming what is short, how much is needed and how much is free.
[[nodiscard]] Status check_space(const BuildNeeds& needs, const FreeSpace& free, const std::string& folder);

}  // namespace edgebuild::tensorrt

#endif  // EDGEBUILD_BACKENDS_TENSORRT_PLAN_STORE_HPP_
