#include "support.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>

#include "bundle/sha256.hpp"

namespace edgebuild::testing {

TemporaryFolder::TemporaryFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "edgebuild-test-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) std::abort();
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

Files sample_files() {
  std::string weights(3000, '\0');
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<char>(i * 7 % 251);
  return {{"model/m.onnx", std::string(1024, 'm')},
          {"model/m.onnx.data", weights},
          {"golden/0.in.0.bin", std::string(2 * 3 * 4, '\1')},
          {"golden/0.out.0.bin", std::string(2 * 8, '\2')},
          {"bin/edgerun", "#!/bin/sh\n"},
          {"lib/ld.so", "loader"},
          {"lib/libc.so.6", "libc"},
          {"licenses/empty.txt", ""}};
}

Json sample_manifest(const Files& files) {
  Json listed = Json::object();
  for (const auto& [path, data] : files) {
    listed[path] = {{"size", data.size()},
                    {"sha256", bundle::sha256_hex(data.data(), data.size())},
                    {"mode", path.rfind("bin/", 0) == 0 || path == "lib/ld.so" ? "0755" : "0644"}};
  }
  return Json::parse(R"({
    "format": {"major": 1, "minor": 0},
    "name": "m", "producer": {"edgebuild": "0.1.0"},
    "target": {"name": "x86-64", "arch": "x86_64", "triple": "x86_64-linux-gnu.2.28"},
    "required_features": [], "optional_features": ["anything"],
    "signature": {
      "inputs": [{"name": "x", "type": {"kind": "tensor", "dtype": "float32", "shape": ["batch", 3]}, "layout": null}],
      "outputs": [{"name": "y", "type": {"kind": "tensor", "dtype": "int64", "shape": ["batch"]}, "layout": null}],
      "symbols": {"batch": {"min": 1, "best": 2, "max": null}},
      "output_structure": {"dict": [["scores", {"tensor": 0}], ["unused", {"constant": null}]]}},
    "variants": [{
      "name": "onnxruntime-float32", "backend": "onnxruntime", "precision": "float32",
      "model": "model/m.onnx", "data": ["model/m.onnx.data"], "inputs": ["x"], "outputs": ["y"],
      "engine": {"name": "onnxruntime", "version": "1.31.1", "linkage": "external",
                 "library": {"file": "libonnxruntime.so.1", "size": 4,
                             "sha256": "9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0"}},
      "plugin": null, "options": {"intra_op_threads": "1"},
      "requires": {"cpu_features": ["sse4_2"], "glibc": "2.28", "memory_bytes": 1000000},
      "speed": "measured", "tolerances": {"y": {"atol": 0, "rtol": 1e-05}}, "numerics": null}],
    "goldens": [{
      "inputs": {"x": {"kind": "tensor", "dtype": "float32", "shape": [2, 3], "file": "golden/0.in.0.bin"}},
      "outputs": {"y": {"kind": "tensor", "dtype": "int64", "shape": [2], "file": "golden/0.out.0.bin"}}}],
    "preprocessing": null, "quantization": null, "placement": null, "files": {}
  })")
      .patch(Json::array({{{"op", "replace"}, {"path", "/files"}, {"value", listed}}}));
}

Files with_manifest(Files files, const std::string& manifest) {
  files["manifest.json"] = manifest;
  files["manifest.sha256"] = bundle::sha256_hex(manifest.data(), manifest.size()) + "\n";
  return files;
}

std::string tar_header(const TarEntry& entry) {
  std::string header(512, '\0');
  const auto put = [&header](std::size_t offset, const std::string& text) {
    header.replace(offset, text.size(), text);
  };
  const auto octal = [](std::uint64_t value, int digits) {
    char text[32];
    std::snprintf(text, sizeof text, "%0*llo", digits, static_cast<unsigned long long>(value));
    return std::string(text);
  };
  std::string name = entry.path;
  if (name.size() > 100) {
    std::size_t split = 0;
    for (std::size_t i = 0; i < name.size() && i <= 155; ++i) {
      if (name[i] == '/') split = i;
    }
    put(345, name.substr(0, split));
    name = name.substr(split + 1);
  }
  put(0, name.substr(0, 100));
  put(100, entry.mode);
  put(108, "0000000");
  put(116, "0000000");
  put(124, octal(entry.data.size(), 11));
  put(136, octal(entry.mtime, 11));
  put(148, "        ");
  put(156, std::string(1, entry.type));
  put(157, entry.link);
  put(257, std::string("ustar\0", 6) + "00root");
  put(297, "root");
  put(329, "0000000");
  put(337, "0000000");
  unsigned sum = 0;
  for (const char c : header) sum += static_cast<unsigned char>(c);
  put(148, octal(sum, 6) + '\0' + ' ');
  return header;
}

std::string tar(const std::vector<TarEntry>& entries) {
  std::string out;
  for (const TarEntry& entry : entries) {
    out += tar_header(entry) + entry.data;
    out.resize((out.size() + 511) / 512 * 512, '\0');
  }
  return out + std::string(1024, '\0');
}

std::vector<TarEntry> tar_entries(const Files& files, const std::string& top) {
  std::vector<TarEntry> entries;
  for (const auto& [path, data] : files) {
    TarEntry entry;
    entry.path = top + "/" + path;
    entry.data = data;
    if (path.rfind("bin/", 0) == 0 || path == "lib/ld.so") entry.mode = "0000755";
    entries.push_back(entry);
  }
  return entries;
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

void write_file(const std::filesystem::path& path, const std::string& data) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream stream(path, std::ios::binary | std::ios::trunc);
  stream.write(data.data(), static_cast<std::streamsize>(data.size()));
  if (!stream) std::abort();
}

void write_directory(const std::filesystem::path& root, const Files& files) {
  for (const auto& [path, data] : files) write_file(root / path, data);
}

}  // namespace edgebuild::testing
