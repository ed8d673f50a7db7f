#include "bundle/manifest.hpp"

#include <doctest/doctest.h>

#include <string>

#include "support.hpp"

namespace edgebuild::bundle {
namespace {

using testing::Json;

Status parse_status(const Json& manifest) { return parse_manifest(manifest.dump()).status(); }

struct Change {
  const char* pointer;  ///< JSON pointer.
  const char* value;    ///< JSON; nullptr: the key is removed.
};

Json changed(const Change& change) {
  Json manifest = testing::sample_manifest(testing::sample_files());
  const Json::json_pointer pointer(change.pointer);
  if (change.value != nullptr) {
    manifest[pointer] = Json::parse(change.value);
  } else {
    manifest.at(pointer.parent_pointer()).erase(pointer.back());
  }
  return manifest;
}

TEST_CASE("a sound manifest is read into the structs") {
  const Result<Manifest> result = parse_manifest(testing::sample_manifest(testing::sample_files()).dump(2));
  REQUIRE_MESSAGE(result.ok(), result.status().message());
  const Manifest& manifest = result.value();
  CHECK(manifest.major == 1);
  CHECK(manifest.minor == 0);
  CHECK(manifest.name == "m");
  CHECK(manifest.target_name == "x86-64");
  CHECK(manifest.arch == "x86_64");
  CHECK(manifest.optional_features == std::vector<std::string>{"anything"});
  REQUIRE(manifest.signature.inputs.size() == 1);
  CHECK(to_string(manifest.signature.inputs[0].type) == "float32[batch,3]");
  CHECK(manifest.signature.symbols.at("batch").best == 2);
  CHECK(!manifest.signature.symbols.at("batch").max);
  CHECK(Json::parse(manifest.signature.output_structure_json) ==
        Json::parse(R"({"dict": [["scores", {"tensor": 0}], ["unused", {"constant": null}]]})"));
  REQUIRE(manifest.variants.size() == 1);
  const Variant& variant = manifest.variants[0];
  CHECK(variant.model == "model/m.onnx");
  CHECK(variant.inputs[0] == "x");
  REQUIRE(variant.engine);
  CHECK(variant.engine->external);
  CHECK(variant.engine->library == "libonnxruntime.so.1");
  CHECK(variant.engine->external_file.size == 4);
  CHECK(variant.requires_.glibc == "2.28");
  CHECK(variant.requires_.memory_bytes == 1000000u);
  CHECK(!variant.requires_.compute_capability);
  CHECK(variant.speed_measured);
  CHECK(variant.tolerances.at("y").rtol == 1e-5);
  REQUIRE(manifest.goldens.size() == 1);
  CHECK(manifest.goldens[0].inputs[0].shape == std::vector<std::int64_t>{2, 3});
  CHECK(manifest.files.at("bin/edgerun").executable);
  CHECK(!manifest.files.at("model/m.onnx").executable);
}

TEST_CASE("a C library of the bundle's own and what an engine needs are read in their order") {
  Json manifest =
      changed({"/target/loader", R"({"program": "lib/ld.so", "libraries": ["lib/libc.so.6"], "glibc": "2.41"})"});
  const std::string hash(64, 'a');
  manifest["variants"][0]["engine"]["needed"] = Json::array(
      {{{"file", "libz.so.1"}, {"size", 3}, {"sha256", hash}}, {{"file", "a.so"}, {"size", 4}, {"sha256", hash}}});
  const Result<Manifest> external = parse_manifest(manifest.dump());
  REQUIRE_MESSAGE(external.ok(), external.status().message());
  REQUIRE(external.value().loader);
  CHECK(external.value().loader->program == "lib/ld.so");
  CHECK(external.value().loader->libraries == std::vector<std::string>{"lib/libc.so.6"});
  CHECK(external.value().loader->glibc == "2.41");
  const Engine& engine = *external.value().variants[0].engine;
  REQUIRE(engine.needed.size() == 2);
  CHECK(engine.needed[0].library == "libz.so.1");
  CHECK(engine.needed[0].external_file.size == 3);
  CHECK(engine.needed[1].library == "a.so");
  CHECK(engine.needed[1].external_file.sha256 == hash);

  manifest["variants"][0]["engine"] = {{"name", "e"},
                                       {"version", "1"},
                                       {"linkage", "bundled"},
                                       {"library", "bin/edgerun"},
                                       {"needed", {"lib/libc.so.6", "licenses/empty.txt"}}};
  const Result<Manifest> bundled = parse_manifest(manifest.dump());
  REQUIRE_MESSAGE(bundled.ok(), bundled.status().message());
  const Engine& second = *bundled.value().variants[0].engine;
  REQUIRE(second.needed.size() == 2);
  CHECK(second.needed[0].library == "lib/libc.so.6");
  CHECK(second.needed[1].library == "licenses/empty.txt");
}

TEST_CASE("what the format leaves open is accepted") {
  const Change changes[] = {
      {"/unknown", "{\"x\": [1, 2.5]}"},
      {"/format/minor", "7"},
      {"/target/arch", "\"loongarch64\""},
      {"/target/triple", "\"\""},
      {"/variants/0/backend", "\"a-new-one\""},
      {"/variants/0/precision", "\"int1\""},
      {"/variants/0/requires", "{}"},
      {"/variants/0/inputs/0", "null"},
      {"/variants/0/engine", "null"},
      {"/variants/0/options", "{}"},
      {"/signature/inputs/0/layout", "\"NC\""},
      {"/signature/inputs/0/type/shape", "null"},
      {"/signature/inputs/0/type", R"({"kind": "sequence", "element": {"kind": "optional", "element":
                                      {"kind": "tensor", "dtype": "string", "shape": []}}})"},
      {"/signature/symbols", "{}"},
      {"/signature/symbols/other", R"({"min": 0, "best": 0, "max": 0})"},
      {"/signature/output_structure", R"({"list": [{"tuple": []}, {"tensor": 0}, {"tensor": 0}]})"},
      {"/signature/output_structure", R"({"dict": [[1, {"tensor": 0}], [null, {"constant": 2.5}]]})"},
      {"/goldens/0/inputs/x", R"({"kind": "sequence", "items": [{"kind": "none"},
                                 {"kind": "tensor", "dtype": "uint8", "shape": [24], "file": "golden/0.in.0.bin"}]})"},
      {"/goldens/0/inputs/x/dtype", "\"complex64\""},  // half as many would fit: below
  };
  for (const Change& change : changes) {
    CAPTURE(change.pointer);
    CAPTURE(change.value);
    Json manifest = changed(change);
    if (std::string(change.value) == "\"complex64\"") manifest["goldens"][0]["inputs"]["x"]["shape"] = {1, 3};
    CHECK(parse_status(manifest).message() == "");
  }
}

TEST_CASE("each broken rule is refused as corrupt, and the message names the key") {
  const struct {
    Change change;
    const char* named;
  } cases[] = {
      {{"/format", nullptr}, "format"},
      {{"/format", "1"}, "format"},
      {{"/format/major", "1.0"}, "format.major"},
      {{"/format/major", "-1"}, "format.major"},
      {{"/format/major", "\"1\""}, "format.major"},
      {{"/format/minor", nullptr}, "minor"},
      {{"/format/minor", "-1"}, "format.minor"},
      {{"/name", "\"a/b\""}, "name"},
      {{"/name", "\"..\""}, "name"},
      {{"/name", "\"\""}, "name"},
      {{"/name", "\"-m\""}, "name"},
      {{"/name", "\"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123\""},
       "name"},
      {{"/producer", "{\"x\": 1}"}, "producer.x"},
      {{"/producer", nullptr}, "producer"},
      {{"/target/name", "\"a b\""}, "target.name"},
      {{"/target/arch", "3"}, "target.arch"},
      {{"/target/triple", nullptr}, "triple"},
      {{"/required_features", "null"}, "required_features"},
      {{"/required_features", "[\"a\", 1]"}, "required_features[1]"},
      {{"/optional_features", "[1]"}, "optional_features[0]"},
      {{"/preprocessing", "[]"}, "preprocessing"},
      {{"/preprocessing", "{}"}, "preprocessing"},
      {{"/preprocessing", "{\"inputs\": {\"nothing\": {}}}"}, "preprocessing.inputs.nothing"},
      {{"/preprocessing", "{\"inputs\": {\"x\": {}}}"}, "preprocessing.inputs.x"},
      {{"/placement", nullptr}, "placement"},
      {{"/quantization", "1"}, "quantization"},
      {{"/variants", "[]"}, "variants"},
      {{"/variants", "{}"}, "variants"},
      {{"/variants/0/name", "\"\""}, "variants[0].name"},
      {{"/variants/0/backend", "\"a/b\""}, "variants[0].backend"},
      {{"/variants/0/model", "\"model/none\""}, "variants[0].model"},
      {{"/variants/0/model", "\"../model/m.onnx\""}, "variants[0].model"},
      {{"/variants/0/data", "[\"model/m.onnx.data\", \"model/m.onnx.data\"]"}, "variants[0].data"},
      {{"/variants/0/data", "null"}, "variants[0].data"},
      {{"/variants/0/inputs", "[]"}, "variants[0].inputs"},
      {{"/variants/0/inputs", "[\"\"]"}, "variants[0].inputs[0]"},
      {{"/variants/0/outputs", "[null]"}, "variants[0].outputs[0]"},
      {{"/variants/0/outputs", "[\"y\", \"z\"]"}, "variants[0].outputs"},
      {{"/variants/0/engine", "\"ort\""}, "variants[0].engine"},
      {{"/variants/0/engine", nullptr}, "engine"},
      {{"/variants/0/engine/linkage", "\"static\""}, "variants[0].engine.linkage"},
      {{"/variants/0/engine/linkage", "\"bundled\""}, "variants[0].engine.library"},
      {{"/variants/0/engine/library/file", "\"../x\""}, "variants[0].engine.library.file"},
      {{"/variants/0/engine/library/sha256", "\"AB\""}, "variants[0].engine.library.sha256"},
      {{"/variants/0/engine/needed", "null"}, "variants[0].engine.needed"},
      {{"/variants/0/engine/needed", "[\"bin/edgerun\"]"}, "variants[0].engine.needed[0]"},
      {{"/variants/0/engine/needed", "[{\"file\": \"a.so\", \"size\": 1, \"sha256\": \"ab\"}]"}, "needed[0].sha256"},
      {{"/target/loader", "null"}, "target.loader"},
      {{"/target/loader", "{\"program\": \"lib/ld.so\", \"libraries\": []}"}, "target.loader"},
      {{"/target/loader", "{\"program\": \"lib/libc.so.6\", \"libraries\": [], \"glibc\": \"2.41\"}"},
       "target.loader.program"},
      {{"/target/loader", "{\"program\": \"bin/edgerun\", \"libraries\": [], \"glibc\": \"2.41\"}"},
       "target.loader.program"},
      {{"/target/loader", "{\"program\": \"lib/ld.so\", \"libraries\": [\"lib/ld.so\"], \"glibc\": \"2.41\"}"},
       "target.loader.libraries[0]"},
      {{"/target/loader", "{\"program\": \"lib/ld.so\", \"libraries\": [], \"glibc\": \"new\"}"},
       "target.loader.glibc"},
      {{"/variants/0/plugin", "\"lib/none.so\""}, "variants[0].plugin"},
      {{"/variants/0/options", "{\"threads\": 1}"}, "variants[0].options.threads"},
      {{"/variants/0/requires", "null"}, "variants[0].requires"},
      {{"/variants/0/requires/glibc", "\"2\""}, "glibc"},
      {{"/variants/0/requires/glibc", "null"}, "glibc"},
      {{"/variants/0/requires/glibc", "\"2.28.1\""}, "glibc"},
      {{"/variants/0/requires/compute_capability", "8.7"}, "compute_capability"},
      {{"/variants/0/requires/memory_bytes", "-1"}, "memory_bytes"},
      {{"/variants/0/speed", "\"fast\""}, "variants[0].speed"},
      {{"/variants/0/tolerances", "{}"}, "variants[0].tolerances"},
      {{"/variants/0/tolerances/z", "{\"atol\": 0, \"rtol\": 0}"}, "variants[0].tolerances"},
      {{"/variants/0/tolerances/y/atol", "-0.5"}, "atol"},
      {{"/variants/0/tolerances/y/rtol", "null"}, "rtol"},
      {{"/variants/0/numerics", "1"}, "numerics"},
      {{"/variants/0/numerics", nullptr}, "numerics"},
      {{"/signature", "[]"}, "signature"},
      {{"/signature/inputs", "{}"}, "signature.inputs"},
      {{"/signature/inputs/0/name", "\"\""}, "signature.inputs[0].name"},
      {{"/signature/inputs/0/layout", nullptr}, "layout"},
      {{"/signature/inputs/0/type/kind", "\"map\""}, "signature.inputs[0].type.kind"},
      {{"/signature/inputs/0/type/dtype", "\"float\""}, "signature.inputs[0].type.dtype"},
      {{"/signature/inputs/0/type/dtype", "\"undefined\""}, "signature.inputs[0].type.dtype"},
      {{"/signature/inputs/0/type/shape", nullptr}, "shape"},
      {{"/signature/inputs/0/type/shape/0", "-1"}, "shape[0]"},
      {{"/signature/inputs/0/type/shape/0", "2.0"}, "shape[0]"},
      {{"/signature/inputs/0/type/shape/0", "\"\""}, "shape[0]"},
      {{"/signature/inputs/0/type/shape", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]"}, "shape"},
      {{"/signature/inputs/0/type", "{\"kind\": \"sequence\"}"}, "element"},
      {{"/signature/symbols/batch/min", "-1"}, "min"},
      {{"/signature/symbols/batch/best", "0"}, "best"},
      {{"/signature/symbols/batch/max", "1"}, "best"},
      {{"/signature/symbols/batch/max", nullptr}, "max"},
      {{"/signature/output_structure", "{}"}, "output_structure"},
      {{"/signature/output_structure", "{\"list\": []}"}, "output_structure"},
      {{"/signature/output_structure", "{\"tensor\": 1}"}, "output_structure.tensor"},
      {{"/signature/output_structure", "{\"tensor\": 0, \"list\": []}"}, "output_structure"},
      {{"/signature/output_structure", "{\"dict\": [[\"a\"]]}"}, "output_structure.dict[0]"},
      {{"/signature/output_structure", "{\"list\": [{\"tensor\": 0}, {\"constant\": []}]}"}, "constant"},
      {{"/goldens/0/inputs", "{}"}, "goldens[0].inputs"},
      {{"/goldens/0/inputs/z", "{\"kind\": \"none\"}"}, "goldens[0].inputs"},
      {{"/goldens/0/inputs/x/kind", "\"optional\""}, "kind"},
      {{"/goldens/0/inputs/x/shape", "[2, 4]"}, "goldens[0].inputs.x"},
      {{"/goldens/0/inputs/x/shape", "[2, -3]"}, "shape[1]"},
      {{"/goldens/0/inputs/x/shape", "[4294967296, 4294967296, 6]"}, "goldens[0].inputs.x"},
      {{"/goldens/0/inputs/x/shape", "[9007199254740991, 9007199254740991, 0]"}, "goldens[0].inputs.x"},
      {{"/goldens/0/inputs/x/dtype", "\"string\""}, ""},
      {{"/goldens/0/inputs/x/file", "\"golden/none.bin\""}, "file"},
      {{"/files", "[]"}, "files"},
      {{"/files/model~1m.onnx", nullptr}, "model"},
      {{"/files/model~1m.onnx/size", "-1"}, "size"},
      {{"/files/model~1m.onnx/size", "1e3"}, "size"},
      {{"/files/model~1m.onnx/mode", "\"0777\""}, "mode"},
      {{"/files/model~1m.onnx/sha256", "\"\""}, "sha256"},
  };
  for (const auto& [change, named] : cases) {
    CAPTURE(change.pointer);
    CAPTURE(change.value);
    Json manifest = changed(change);
    if (std::string(change.pointer) == "/goldens/0/inputs/x/dtype")
      manifest["goldens"][0]["inputs"]["x"]["shape"] = {7};
    const Status status = parse_status(manifest);
    CHECK(status.code() == Code::kCorrupt);
    CHECK_MESSAGE(status.message().find(named) != std::string::npos, status.message());
    CHECK(status.message().find('\n') == std::string::npos);
  }
}

TEST_CASE("paths that a bundle can't hold, or not together, are refused") {
  const std::string long_segment(101, 'a');
  std::string deep = "lib";
  for (int i = 0; i < 16; ++i) deep += "/a";
  std::string longest = "lib";
  while (longest.size() < 240) longest += "/" + std::string(60, 'b');
  const std::string paths[] = {"",
                               "/lib/x",
                               "lib/",
                               "lib//x",
                               "lib/./x",
                               "lib/../x",
                               "../x",
                               "lib/a b",
                               "lib/\\x",
                               "lib/\xC3\xA9",
                               "lib/-x",
                               "lib/" + long_segment,
                               deep,
                               longest,
                               "manifest.json",
                               "Manifest.SIG",
                               "manifest.sha256",
                               "manifest.json/x",
                               "BIN/EDGERUN",
                               "bin/edgerun/x",
                               "Bin/Edgerun/x",
                               "lib/x:y",
                               "other/x"};
  const Json entry = {{"size", 0}, {"sha256", std::string(64, '0')}, {"mode", "0644"}};
  for (const std::string& path : paths) {
    CAPTURE(path);
    Json manifest = testing::sample_manifest(testing::sample_files());
    manifest["files"][path] = entry;
    CHECK(parse_status(manifest).code() == Code::kCorrupt);
  }
  for (const std::string& path :
       {std::string("lib/...x"), std::string("bin/a/b"), "licenses/" + std::string(100, 'a')}) {
    CAPTURE(path);
    Json manifest = testing::sample_manifest(testing::sample_files());
    manifest["files"][path] = entry;
    CHECK(parse_status(manifest).message() == "");
  }
}

TEST_CASE("a newer major and unknown required features are incompatible before the rest is judged") {
  Json manifest = testing::sample_manifest(testing::sample_files());
  manifest["required_features"] = {"delta-weights"};
  CHECK(parse_status(manifest).code() == Code::kIncompatible);
  CHECK(parse_status(manifest).message().find("delta-weights") != std::string::npos);
  manifest.erase("variants");
  CHECK(parse_status(manifest).code() == Code::kIncompatible);
  CHECK(parse_status(Json::parse(R"({"format": {"major": 2, "minor": 0}})")).code() == Code::kIncompatible);
  CHECK(parse_status(Json::parse(R"({"format": {"major": 0, "minor": 0}})")).code() == Code::kIncompatible);
  CHECK(parse_status(Json::parse(R"({"format": {"major": 2}})")).code() == Code::kCorrupt);
  CHECK(parse_status(Json::parse(R"([{"format": {"major": 2, "minor": 0}}])")).code() == Code::kCorrupt);
  CHECK(parse_manifest(R"({"format": {"major": 2, "minor": 0}, "x": 1, "x": 2})").status().code() == Code::kCorrupt);
}

TEST_CASE("counts above the format's limits are refused, those at the limit are not") {
  const Json base = testing::sample_manifest(testing::sample_files());
  for (const std::size_t count : {64u, 65u}) {
    Json manifest = base;
    for (std::size_t i = 1; i < count; ++i) {
      Json variant = base["variants"][0];
      variant["name"] = "v" + std::to_string(i);
      manifest["variants"].push_back(variant);
    }
    CHECK(parse_status(manifest).ok() == (count == 64));
  }
  for (const std::size_t count : {256u, 257u}) {
    Json manifest = base;
    for (std::size_t i = 1; i < count; ++i) manifest["goldens"].push_back(base["goldens"][0]);
    CHECK(parse_status(manifest).ok() == (count == 256));
  }
  for (const std::size_t count : {10000u, 10001u}) {
    Json manifest = base;
    const Json entry = {{"size", 0}, {"sha256", std::string(64, '0')}, {"mode", "0644"}};
    for (std::size_t i = base["files"].size(); i < count; ++i) manifest["files"]["lib/" + std::to_string(i)] = entry;
    CHECK(parse_status(manifest).ok() == (count == 10000));
  }
  for (const std::size_t bytes : {1024u, 1025u}) {
    Json manifest = base;
    manifest["variants"][0]["outputs"][0] = std::string(bytes, 'n');
    CHECK(parse_status(manifest).ok() == (bytes == 1024));
  }
  for (const std::size_t count : {1024u, 1025u}) {
    Json manifest = base;
    Json spec = base["signature"]["inputs"][0];
    for (std::size_t i = 1; i < count; ++i) {
      spec["name"] = "x" + std::to_string(i);
      manifest["signature"]["inputs"].push_back(spec);
      manifest["variants"][0]["inputs"].push_back(nullptr);
      manifest["goldens"][0]["inputs"]["x" + std::to_string(i)] = {{"kind", "none"}};
    }
    CHECK(parse_status(manifest).ok() == (count == 1024));
  }
}

TEST_CASE("names stand there once") {
  Json manifest = testing::sample_manifest(testing::sample_files());
  manifest["variants"].push_back(manifest["variants"][0]);
  CHECK(parse_status(manifest).code() == Code::kCorrupt);
  manifest = testing::sample_manifest(testing::sample_files());
  manifest["signature"]["inputs"].push_back(manifest["signature"]["inputs"][0]);
  manifest["variants"][0]["inputs"].push_back("x2");
  CHECK(parse_status(manifest).message().find("signature.inputs[1].name") != std::string::npos);
}

}  // namespace
}  // namespace edgebuild::bundle
