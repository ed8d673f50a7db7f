#include <ATen/Version.h>
#include <torch/headeronly/version.h>

#include "libtorch/libtorch.hpp"

namespace edgebuild::libtorch {
namespace {

/// The version that the loaded library says of itself; "unknown" if it does not.
std::string library_version() {
  constexpr std::string_view kKey = "TORCH_VERSION=";
  const std::string config = at::show_config();
  const std::size_t found = config.find(kKey);
  if (found == std::string::npos) return "unknown";
  const std::size_t begin = found + kKey.size();
  return config.substr(begin, config.find_first_of(", \n", begin) - begin);
}

/// Without what follows a plus sign, which names the build ("+cpu"), not the version.
std::string_view release_of(std::string_view version) { return version.substr(0, version.find('+')); }

}  // namespace

eb_status* Backend::create(const eb_host_api& host, const eb_backend_config& config, Backend** out) {
  std::unique_ptr<Backend> backend(new Backend(host));
  backend->version_ = library_version();
  if (backend->version_ != TORCH_VERSION) {
    return plugin::make_error(
        host, EB_INCOMPATIBLE,
        "the libtorch plugin was built for LibTorch " TORCH_VERSION ", the library is version " + backend->version_);
  }
  if (config.engine_version != nullptr && release_of(config.engine_version) != backend->version_) {
    return plugin::make_error(host, EB_INCOMPATIBLE,
                              std::string("the bundle pins LibTorch ") + config.engine_version +
                                  ", but the library is version " + backend->version_);
  }
  *out = backend.release();
  return nullptr;
}

}  // namespace edgebuild::libtorch
