#include <sys/stat.h>

#include <set>

#include "files.hpp"
#include "io.hpp"
#include "npz.hpp"

namespace edgerun {
namespace {

using edgebuild::Code;
using edgebuild::Signature;
using edgebuild::Status;
using edgebuild::Value;

// A tensor under the key that stands for it; a null tensor: an empty sequence.
struct Leaf {
  std::string key;
  const eb_value* tensor;
};

void collect(const std::string& name, const eb_value& value, std::vector<Leaf>& leaves) {
  if (value.kind == EB_KIND_TENSOR) leaves.push_back({name, &value});
  if (value.kind != EB_KIND_SEQUENCE) return;
  if (value.item_count == 0) leaves.push_back({name + "[]", nullptr});
  for (std::uint64_t i = 0; i < value.item_count; ++i) {
    collect(name + "[" + std::to_string(i) + "]", value.items[i], leaves);
  }
}

NpyArray to_array(const Leaf& leaf) {
  if (leaf.tensor != nullptr) return array_from_tensor(*leaf.tensor);
  NpyArray empty;
  empty.type = {'f', 4};
  empty.shape = {0};
  return empty;
}

Status write_npy(PendingFiles& pending, const std::string& path, const Leaf& leaf) {
  const NpyArray array = to_array(leaf);
  const std::string header = npy_header(array.type, array.shape);
  EDGEBUILD_RETURN_IF_ERROR(pending.open(path));
  EDGEBUILD_RETURN_IF_ERROR(pending.write(std::as_bytes(std::span(header.data(), header.size()))));
  return pending.write(array.data);
}

Status write_npz(PendingFiles& pending, const std::string& path, const std::vector<Leaf>& leaves) {
  EDGEBUILD_RETURN_IF_ERROR(pending.open(path));
  NpzWriter writer([&](std::span<const std::byte> bytes) { return pending.write(bytes); });
  for (const Leaf& leaf : leaves) {
    const NpyArray array = to_array(leaf);
    EDGEBUILD_RETURN_IF_ERROR(writer.add(leaf.key, array.type, array.shape, array.data));
  }
  return writer.finish();
}

Status write_folder(PendingFiles& pending, const std::string& path, const std::vector<Leaf>& leaves) {
  for (const Leaf& leaf : leaves) {
    if (leaf.key.find('/') != std::string::npos || leaf.key.starts_with('.')) {
      return {Code::kUsage,
              "output '" + leaf.key + "' can't be a file name in the folder " + path + "; write a .npz file"};
    }
    EDGEBUILD_RETURN_IF_ERROR(write_npy(pending, path + "/" + leaf.key + ".npy", leaf));
  }
  return {};
}

Status write_one(PendingFiles& pending, const std::string& name, const std::string& path,
                 const std::vector<Leaf>& leaves) {
  for (const Leaf& leaf : leaves) {
    if (leaf.key != name || leaf.tensor == nullptr) continue;
    if (path.ends_with(".npy")) return write_npy(pending, path, leaf);
    EDGEBUILD_RETURN_IF_ERROR(pending.open(path));
    std::vector<std::byte> storage;
    return pending.write(raw_from_tensor(*leaf.tensor, storage));
  }
  std::string names;
  for (const Leaf& leaf : leaves) names.append(names.empty() ? "'" : ", '").append(leaf.key).append("'");
  return {Code::kUsage, "--output " + name + "=" + path + ": this run has no tensor of that name; it has " + names};
}

}  // namespace

Status save_outputs(const Signature& signature, std::span<const Value> values, const OutputFiles& files) {
  std::vector<Leaf> leaves;
  for (std::size_t i = 0; i < values.size(); ++i) collect(signature.outputs[i].name, values[i].raw(), leaves);
  PendingFiles pending;
  if (!files.outputs.empty()) {
    struct stat info = {};
    const bool exists = ::stat(files.outputs.c_str(), &info) == 0;
    if (files.outputs.back() == '/' && !exists && ::mkdir(files.outputs.c_str(), 0777) != 0) {
      return {Code::kIo, "can't make the folder " + files.outputs};
    }
    if (files.outputs.back() == '/' || (exists && S_ISDIR(info.st_mode))) {
      EDGEBUILD_RETURN_IF_ERROR(write_folder(pending, files.outputs, leaves));
    } else {
      EDGEBUILD_RETURN_IF_ERROR(write_npz(pending, files.outputs, leaves));
    }
  }
  for (const auto& [name, path] : files.files) EDGEBUILD_RETURN_IF_ERROR(write_one(pending, name, path, leaves));
  return pending.commit();
}

}  // namespace edgerun
