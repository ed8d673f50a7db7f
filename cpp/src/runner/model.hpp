// A variant, loaded: the backend's model, the files that it reads from, and a pool of contexts.

#ifndef EDGEBUILD_SRC_RUNNER_MODEL_HPP_
#define EDGEBUILD_SRC_RUNNER_MODEL_HPP_

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "bundle/bundle.hpp"
#include "edgebuild/runner.hpp"
#include "runner/check.hpp"
#include "runner/registry.hpp"

namespace edgebuild::runner {

/// What a load may make on this machine before the model is ready.
struct Preparing {
  eb_preparation mode = EB_PREPARATION_NONE;
  /// Hears a step's name, and of it `done` of `total` (0: unknown). Any thread, until the load returns. May be empty.
  std::function<void(std::string_view step, std::uint32_t done, std::uint32_t total)> progress;
};

class LoadedModel {
 public:
  /// A context, and what our own checks need, so that a run allocates nothing.
  struct Context {
    const eb_backend_api& api;
    eb_context* handle = nullptr;
    SignatureChecker::SymbolSizes symbols;
    explicit Context(const eb_backend_api& table) noexcept : api(table) {}
    Context(const Context&) = delete;
    Context& operator=(const Context&) = delete;
    ~Context() {
      if (handle != nullptr) api.context_destroy(handle);
    }
  };

  /// Opens plugin, engine and files, each hashed, and loads the model.
  ///
  /// @param options    Override the variant's.
  /// @param state_dir  Where a backend keeps what it makes on this machine; empty: the bundle's default one.
  /// @param preparing  More than "nothing" only where prepares() says so.
  /// @param engine_folders  See LoadOptions.
  static Result<std::unique_ptr<LoadedModel>> load(const bundle::Bundle& bundle, const bundle::Variant& variant,
                                                   const std::map<std::string, std::string>& options,
                                                   const std::string& state_dir, const Preparing& preparing = {},
                                                   const std::map<std::string, EngineFolder>& engine_folders = {});
  /// Whether the variant's backend makes something on this machine before it can run. Opens its plugin and engine.
  static Result<bool> prepares(const bundle::Bundle& bundle, const bundle::Variant& variant);
  /// The verdict on what was made for this model; see eb_backend_api.model_settle.
  Status settle(bool good);
  LoadedModel(const LoadedModel&) = delete;
  LoadedModel& operator=(const LoadedModel&) = delete;
  ~LoadedModel();

  [[nodiscard]] const eb_backend_api& api() const noexcept { return *backend_->api; }
  [[nodiscard]] const SignatureChecker& checker() const noexcept { return checker_; }
  [[nodiscard]] std::string engine_version() const;

  /// Takes a context out of the pool, or makes one.
  Status acquire(Context** out);
  void release(Context* context) noexcept;
  /// Gives up every context, and with them the state that a model keeps; none may be in use.
  Status reset();

  /// The one context of profiled runs, and its lock: a profile adds up the runs of one context.
  [[nodiscard]] std::mutex& profile_mutex() noexcept { return profile_mutex_; }
  Status profile_context(Context** out);
  /// Entries of the profiled runs; nothing if there was none.
  Status read_profile(std::vector<ProfileEntry>* out);

 private:
  explicit LoadedModel(const Signature& signature) : checker_(signature) {}
  Status create_context(std::unique_ptr<Context>* out);
  Status check_against_signature(const Signature& signature) const;

  SignatureChecker checker_;
  std::vector<std::shared_ptr<const bundle::MappedFile>> files_;
  std::shared_ptr<BackendInstance> backend_;
  eb_model* model_ = nullptr;

  std::mutex pool_mutex_;
  std::vector<std::unique_ptr<Context>> contexts_;  // All of the pool's.
  std::vector<Context*> idle_;                      // Capacity for all, so that giving one back can't fail.

  std::mutex profile_mutex_;
  std::unique_ptr<Context> profile_context_;
};

}  // namespace edgebuild::runner

#endif  // EDGEBUILD_SRC_RUNNER_MODEL_HPP_
