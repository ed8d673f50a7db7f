#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <set>

#include "files.hpp"
#include "io.hpp"
#include "npz.hpp"

namespace edgerun {
namespace {

using edgebuild::Code;
using edgebuild::Dim;
using edgebuild::Result;
using edgebuild::Signature;
using edgebuild::Status;
using edgebuild::TypeSpec;
using edgebuild::Value;
using edgebuild::ValueSpec;

// One array, or the bytes of a raw file whose dtype and shape the signature knows.
struct Source {
  NpyArray array;
  bool raw = false;
  std::span<const std::byte> bytes;
};

class Loader {
 public:
  Loader(const Signature& signature, const InputFiles& files, const Images& images)
      : signature_(signature), files_(files), images_(images) {}

  Result<LoadedInputs> load() {
    if (!files_.inputs.empty()) EDGEBUILD_RETURN_IF_ERROR(collect(files_.inputs));
    for (const auto& [name, path] : files_.files) EDGEBUILD_RETURN_IF_ERROR(add_file(name, path));
    for (const auto& [name, shape] : files_.shapes) {
      const auto source = sources_.find(name);
      if (source == sources_.end() || !source->second.raw) {
        return Status(Code::kUsage,
                      "--shape " + name + "=…: only raw (.bin) inputs need a shape, and '" + name + "' is none");
      }
    }
    for (const ValueSpec& spec : signature_.inputs) {
      Result<Value> value = make(spec.name, spec.type);
      if (!value.ok()) return value.status();
      loaded_.values.push_back(std::move(value).value());
    }
    if (!sources_.empty()) {
      return Status(Code::kInvalidArgument,
                    "unexpected input '" + sources_.begin()->first + "'; the model takes " + known_names());
    }
    return std::move(loaded_);
  }

 private:
  std::string known_names() const {
    std::string names;
    for (const ValueSpec& spec : signature_.inputs)
      names.append(names.empty() ? "'" : ", '").append(spec.name).append("'");
    return names.empty() ? "none" : names;
  }

  // What was given under names that are no inputs: probably the missing one under another name.
  std::string strangers() const {
    std::string names;
    for (const auto& [name, source] : sources_) {
      const auto known = [&](const ValueSpec& spec) { return name == spec.name || name.starts_with(spec.name + "["); };
      if (std::none_of(signature_.inputs.begin(), signature_.inputs.end(), known)) {
        names.append(names.empty() ? "; there is '" : ", '").append(name).append("'");
      }
    }
    return names.empty() ? "; the model takes " + known_names() : names + ", which is no input of the model";
  }

  Status collect(const std::string& path) {
    struct stat info = {};
    if (::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) return collect_folder(path);
    if (path.ends_with(".npy") || path.ends_with(".bin")) {
      const std::string name = signature_.inputs.empty() ? "NAME" : signature_.inputs.front().name;
      return {Code::kUsage, "--inputs " + path +
                                ": expected a .npz file or a folder, and one array has no name; give it with --input " +
                                name + "=" + path};
    }
    auto file = FileBytes::open(path);
    if (!file.ok()) return file.status();
    loaded_.storage.push_back(file.value());
    Result<NamedArrays> arrays = parse_npz(file.value()->bytes(), path);
    if (!arrays.ok()) return arrays.status();
    for (auto& [key, array] : arrays.value()) EDGEBUILD_RETURN_IF_ERROR(add(key, {std::move(array), false, {}}, path));
    return {};
  }

  Status collect_folder(const std::string& path) {
    std::vector<std::string> names;
    DIR* folder = ::opendir(path.c_str());
    if (folder == nullptr) return {Code::kIo, "can't read " + path + ": " + std::strerror(errno)};
    while (const dirent* entry = ::readdir(folder)) {
      const std::string name = entry->d_name;
      if (name.ends_with(".npy") || name.ends_with(".bin")) names.push_back(name);
    }
    ::closedir(folder);
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) {
      EDGEBUILD_RETURN_IF_ERROR(add_file(name.substr(0, name.size() - 4), path + "/" + name));
    }
    return {};
  }

  Status add_file(const std::string& name, const std::string& path) {
    auto file = FileBytes::open(path);
    if (!file.ok()) return file.status();
    loaded_.storage.push_back(file.value());
    const std::span<const std::byte> bytes = file.value()->bytes();
    if (!path.ends_with(".npy")) return add(name, {{}, true, bytes}, path);
    Result<NpyArray> array = parse_npy(bytes, path);
    if (!array.ok()) return array.status();
    return add(name, {std::move(array).value(), false, {}}, path);
  }

  Status add(const std::string& name, Source source, const std::string& path) {
    if (!sources_.emplace(name, std::move(source)).second) {
      return {Code::kInvalidArgument, "input '" + name + "' is given twice, the second time by " + path};
    }
    return {};
  }

  bool has_prefix(const std::string& name) const {
    const auto next = sources_.lower_bound(name + "[");
    return next != sources_.end() && next->first.starts_with(name + "[");
  }

  Result<Value> make(const std::string& name, const TypeSpec& type) {
    if (type.kind == EB_KIND_OPTIONAL) {
      if (!sources_.contains(name) && !has_prefix(name)) return Value();
      return make(name, *type.element);
    }
    if (type.kind == EB_KIND_SEQUENCE) return make_sequence(name, *type.element);
    const auto found = sources_.find(name);
    if (found == sources_.end()) {
      return Status(Code::kInvalidArgument,
                    "input '" + name + "' is missing, expected " + to_string(type) + strangers());
    }
    Source source = std::move(found->second);
    sources_.erase(found);
    if (images_.is_image && images_.is_image(name)) return make_image(name, std::move(source));
    if (!source.raw) return value_from_array(std::move(source.array), type.dtype, name, loaded_.storage);
    std::vector<std::int64_t> shape;
    EDGEBUILD_RETURN_IF_ERROR(raw_shape(name, type, shape));
    return value_from_raw(source.bytes, type.dtype, shape, name);
  }

  Result<Value> make_image(const std::string& name, Source source) {
    if (source.raw) {
      return Status(Code::kUsage, "input '" + name + "' is an image, whose size a raw file does not say; give a .npy");
    }
    Storage storage;  // the image itself is not needed afterwards
    Result<Value> value = value_from_array(std::move(source.array), EB_UINT8, name, storage);
    if (!value.ok()) return value;
    return images_.make(name, value.value());
  }

  Result<Value> make_sequence(const std::string& name, const TypeSpec& element) {
    const auto empty = sources_.find(name + "[]");
    std::vector<Value> items;
    if (empty != sources_.end()) {
      sources_.erase(empty);
    } else {
      for (std::size_t i = 0;; ++i) {
        const std::string key = name + "[" + std::to_string(i) + "]";
        if (!sources_.contains(key) && !has_prefix(key)) break;
        Result<Value> item = make(key, element);
        if (!item.ok()) return item;
        items.push_back(std::move(item).value());
      }
      if (items.empty()) {
        return Status(Code::kInvalidArgument, "input '" + name + "' is missing; a sequence is given as '" + name +
                                                  "[0]', '" + name + "[1]', …, an empty one as '" + name + "[]'");
      }
    }
    return Value::sequence(std::move(items), element.kind == EB_KIND_TENSOR ? element.dtype : EB_DTYPE_UNDEFINED);
  }

  Status raw_shape(const std::string& name, const TypeSpec& type, std::vector<std::int64_t>& shape) const {
    if (const auto given = files_.shapes.find(name); given != files_.shapes.end()) {
      shape = given->second;
      return {};
    }
    bool fixed = type.shape.has_value();
    for (std::size_t i = 0; fixed && i < type.shape->size(); ++i) {
      const Dim& dim = (*type.shape)[i];
      fixed = dim.kind == Dim::Kind::kFixed;
      shape.push_back(dim.size);
    }
    if (fixed) return {};
    return {Code::kUsage, "input '" + name + "' is a raw file and its shape is not fixed (" + to_string(type) +
                              "); give it with --shape '" + name + "=…'"};
  }

  const Signature& signature_;
  const InputFiles& files_;
  const Images& images_;
  std::map<std::string, Source, std::less<>> sources_;
  LoadedInputs loaded_;
};

}  // namespace

Result<LoadedInputs> load_inputs(const Signature& signature, const InputFiles& files, const Images& images) {
  return Loader(signature, files, images).load();
}

}  // namespace edgerun
