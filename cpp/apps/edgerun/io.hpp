// The inputs and outputs of one run as files.
//
// A sequence is the keys NAME[0], NAME[1], …; an empty one the key NAME[] with an empty array. An optional that is
// absent has no key.

#ifndef EDGEBUILD_APPS_EDGERUN_IO_HPP_
#define EDGEBUILD_APPS_EDGERUN_IO_HPP_

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "edgebuild/runner.hpp"

namespace edgerun {

/// Where inputs come from, as on the command line.
struct InputFiles {
  std::string inputs;                                       ///< A .npz file or a folder of .npy and .bin; or empty.
  std::vector<std::pair<std::string, std::string>> files;   ///< Name and .npy or raw file.
  std::map<std::string, std::vector<std::int64_t>> shapes;  ///< Shapes of raw files by name.
};

/// Values in signature order, and the memory that they refer to.
struct LoadedInputs {
  std::vector<edgebuild::Value> values;
  Storage storage;
};

/// Which inputs are decoded images, and what makes them into tensors.
struct Images {
  std::function<bool(const std::string& name)> is_image;  ///< Empty: none is.
  std::function<edgebuild::Result<edgebuild::Value>(const std::string& name, const edgebuild::Value& images)> make;
};

/// Reads and checks names and dtypes; shapes are for the runner to check.
///
/// @return kInvalidArgument, naming the input: missing, unexpected, given twice, malformed, of the wrong dtype; kUsage:
/// a raw
///         file whose shape is not known; kNotFound, kIo, kResourceExhausted: a file that can't be read.
[[nodiscard]] edgebuild::Result<LoadedInputs> load_inputs(const edgebuild::Signature& signature,
                                                          const InputFiles& files, const Images& images = {});

/// Where outputs go, as on the command line.
struct OutputFiles {
  std::string outputs;  ///< A .npz file, or a folder (exists, or ends in '/'); or empty.
  std::vector<std::pair<std::string, std::string>> files;  ///< Name and .npy or raw file.
};

/// Writes all files or none.
///
/// @return kUsage: an unknown name, a name that can't be a file's; kIo, kResourceExhausted.
[[nodiscard]] edgebuild::Status save_outputs(const edgebuild::Signature& signature,
                                             std::span<const edgebuild::Value> values, const OutputFiles& files);

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_IO_HPP_
