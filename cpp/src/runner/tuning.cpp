#include "runner/tuning.hpp"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "bundle/manifest_reader.hpp"
#include "bundle/sha256.hpp"
#include "edgebuild/runner.hpp"
#include "json_writer.hpp"

namespace edgebuild::runner {
namespace {

using bundle::ManifestReader;
using bundle::json::Kind;
using bundle::json::Value;

constexpr std::string_view kSchema = "edgebuild.tuning/1";
constexpr std::string_view kSealBegin = ",\"sha256\":\"";
constexpr std::string_view kSealEnd = "\"}\n";
constexpr std::size_t kDigest = 64;
constexpr std::int64_t kMostThreads = 4096;
constexpr std::int64_t kMostProcessors = 1 << 20;

/// Exactly these members, so that a file of another make is not half understood.
void expect_members(ManifestReader& reader, const Value& object, std::uint32_t count) {
  if (reader.ok() && object.size() != count) {
    reader.fail(object, "expected " + std::to_string(count) + " members, got " + std::to_string(object.size()));
  }
}

std::string read_string(ManifestReader& reader, const Value& object, std::string_view key) {
  const auto value = reader.required(object, key);
  return value ? reader.string(*value) : std::string();
}

unsigned read_count(ManifestReader& reader, const Value& object, std::string_view key, std::int64_t most) {
  const auto value = reader.required(object, key);
  return value ? static_cast<unsigned>(reader.integer(*value, 0, most)) : 0;
}

double read_seconds(ManifestReader& reader, const Value& object, std::string_view key) {
  const auto value = reader.required(object, key);
  return value ? reader.number(*value, 0.0) : 0.0;
}

TunedVariant read_variant(ManifestReader& reader, const Value& object) {
  TunedVariant variant;
  variant.name = read_string(reader, object, "name");
  variant.engine_version = read_string(reader, object, "engine_version");
  const auto agrees = reader.required(object, "agrees");
  if (agrees && reader.expect(*agrees, Kind::kBool)) variant.agrees = agrees->boolean();
  variant.median_s = read_seconds(reader, object, "median_s");
  variant.p25_s = read_seconds(reader, object, "p25_s");
  variant.p75_s = read_seconds(reader, object, "p75_s");
  expect_members(reader, object, 6);
  return variant;
}

std::string threads_text(unsigned threads) {
  return threads == 0 ? "the variants' own threads" : std::to_string(threads) + (threads == 1 ? " thread" : " threads");
}

bool is_absolute(const char* path) noexcept { return path != nullptr && path[0] == '/'; }

}  // namespace

TuningKey tuning_key(const std::string& bundle_id, const Machine& machine, unsigned threads) {
  std::string features;
  for (const std::string& feature : machine.cpu_features) features.append(feature).append(" ");
  TuningKey key;
  key.bundle_id = bundle_id;
  key.edgebuild = version();
  key.cpu_model = machine.cpu_model;
  key.cpu_features = bundle::sha256_hex(features.data(), features.size());
  key.threads = threads;
  key.processors = machine.processors;
  return key;
}

unsigned asked_threads(const std::map<std::string, std::string>& options) {
  const auto found = options.find("intra_op_threads");
  unsigned threads = 0;
  if (found != options.end()) {
    const std::string& text = found->second;
    std::from_chars(text.data(), text.data() + text.size(), threads);  // what is no number, the backend refuses
  }
  return threads;
}

std::string default_state_dir(const std::string& bundle_id) {
  const char* const state = std::getenv("XDG_STATE_HOME");
  if (is_absolute(state)) return std::string(state) + "/edgebuild/" + bundle_id;
  const char* const home = std::getenv("HOME");
  return is_absolute(home) ? std::string(home) + "/.local/state/edgebuild/" + bundle_id : std::string();
}

std::string tuning_file_name(unsigned threads) {
  return "tuning-" + (threads == 0 ? std::string("default") : std::to_string(threads)) + ".json";
}

std::string tuning_text(const Tuning& tuning) {
  JsonWriter json;
  json.begin_object().member("schema", kSchema).member("bundle_id", tuning.key.bundle_id);
  json.member("edgebuild", tuning.key.edgebuild).member("cpu_model", tuning.key.cpu_model);
  json.member("cpu_features_sha256", tuning.key.cpu_features).member("threads", tuning.key.threads);
  json.member("processors", tuning.key.processors).key("variants").begin_array();
  for (const TunedVariant& variant : tuning.variants) {
    json.begin_object().member("name", variant.name).member("engine_version", variant.engine_version);
    json.member("agrees", variant.agrees).member("median_s", variant.median_s);
    json.member("p25_s", variant.p25_s).member("p75_s", variant.p75_s).end_object();
  }
  json.end_array();
  const std::string& body = json.text();
  const std::string digest = bundle::sha256_hex(body.data(), body.size());
  return body + std::string(kSealBegin) + digest + std::string(kSealEnd);
}

Result<Tuning> parse_tuning(std::string_view text) {
  constexpr std::size_t kSeal = kSealBegin.size() + kDigest + kSealEnd.size();
  const auto damaged = [](const std::string& what) { return Status(Code::kCorrupt, "it is damaged: " + what); };
  if (text.size() < kSeal || !text.ends_with(kSealEnd)) return damaged("its end is missing");
  const std::string_view body = text.substr(0, text.size() - kSeal);
  if (!text.substr(body.size()).starts_with(kSealBegin)) return damaged("its hash is missing");
  if (text.substr(body.size() + kSealBegin.size(), kDigest) != bundle::sha256_hex(body.data(), body.size())) {
    return damaged("its hash is another");
  }
  const Result<bundle::json::Document> document = bundle::json::parse(text);
  if (!document.ok()) return document.status();
  const Value top(document.value(), 0);
  ManifestReader reader;
  const std::string schema = read_string(reader, top, "schema");
  if (reader.ok() && schema != kSchema) {
    return Status(Code::kIncompatible,
                  "expected schema " + std::string(kSchema) + ", got " + bundle::json::in_quotes(schema));
  }
  Tuning tuning;
  tuning.key.bundle_id = read_string(reader, top, "bundle_id");
  tuning.key.edgebuild = read_string(reader, top, "edgebuild");
  tuning.key.cpu_model = read_string(reader, top, "cpu_model");
  tuning.key.cpu_features = read_string(reader, top, "cpu_features_sha256");
  tuning.key.threads = read_count(reader, top, "threads", kMostThreads);
  tuning.key.processors = read_count(reader, top, "processors", kMostProcessors);
  expect_members(reader, top, 9);
  if (const auto variants = reader.required(top, "variants"); variants && reader.expect(*variants, Kind::kArray)) {
    reader.at_most(*variants, bundle::kMaxVariants, "variants");
    for (const Value entry : *variants) {
      if (!reader.ok()) break;
      tuning.variants.push_back(read_variant(reader, entry));
    }
  }
  if (!reader.ok()) return reader.status();
  return tuning;
}

std::optional<std::string> why_stale(const TuningKey& tuned, const TuningKey& here) {
  const auto differs = [](const char* what, const std::string& then, const std::string& now) {
    return std::string("it was measured ") + what + " " + bundle::json::in_quotes(then) + ", this is " +
           bundle::json::in_quotes(now);
  };
  if (tuned.bundle_id != here.bundle_id) {
    return differs("with the bundle", tuned.bundle_id.substr(0, 16), here.bundle_id.substr(0, 16));
  }
  if (tuned.edgebuild != here.edgebuild) return differs("by edgebuild", tuned.edgebuild, here.edgebuild);
  if (tuned.cpu_model != here.cpu_model) return differs("on the CPU", tuned.cpu_model, here.cpu_model);
  if (tuned.cpu_features != here.cpu_features) return "it was measured on a CPU with other features than this one";
  if (tuned.threads != here.threads) {
    return "it was measured with " + threads_text(tuned.threads) + ", not with " + threads_text(here.threads);
  }
  if (here.threads == 0 && tuned.processors != here.processors) {
    return "it was measured with " + std::to_string(tuned.processors) + " processors, there are " +
           std::to_string(here.processors);
  }
  return std::nullopt;
}

std::vector<std::size_t> tuned_order(const std::vector<std::string>& names, const Tuning& tuning) {
  std::vector<std::size_t> known;  // in the tuning's order
  for (const TunedVariant& variant : tuning.variants) {
    const auto found = std::find(names.begin(), names.end(), variant.name);
    const auto index = static_cast<std::size_t>(found - names.begin());
    if (found != names.end() && std::find(known.begin(), known.end(), index) == known.end()) known.push_back(index);
  }
  std::vector<std::size_t> places = known;
  std::sort(places.begin(), places.end());
  std::vector<std::size_t> order;
  for (std::size_t index = 0; index < names.size(); ++index) order.push_back(index);
  for (std::size_t i = 0; i < places.size(); ++i) order[places[i]] = known[i];
  return order;
}

VariantOrder variant_order(const OrderRequest& request) {
  VariantOrder order;
  for (std::size_t index = 0; index < request.names.size(); ++index) order.indices.push_back(index);
  const auto keep = [&order](std::string why) {
    order.why = std::move(why);
    return order;
  };
  if (request.names.size() < 2) return keep("there is one variant");
  if (!request.tuning) return keep("the target's: tuning is switched off");
  if (request.arch != process_arch()) return keep("the target's: this machine can't run the bundle");
  const std::string folder = request.state_dir.empty() ? default_state_dir(request.bundle_id) : request.state_dir;
  if (folder.empty()) {
    return keep("the target's: there is no state folder (neither XDG_STATE_HOME nor HOME is an absolute path)");
  }
  const std::string file = folder + "/" + tuning_file_name(request.threads);
  const TuningKey here = tuning_key(request.bundle_id, probe_machine(), request.threads);
  Result<Tuning> tuning = read_tuning(folder, here, ::geteuid());
  if (tuning.ok()) {
    order.indices = tuned_order(request.names, tuning.value());
    order.tuning = std::move(tuning).value();
    return keep("as tuned on this machine for " + threads_text(request.threads) + " (" + file + ")");
  }
  if (tuning.status().code() == Code::kNotFound) {
    return keep("the target's: not tuned on this machine for " + threads_text(request.threads) +
                "; `edgerun tune` measures here");
  }
  return keep("the target's: " + file + " is ignored: " + tuning.status().message());
}

}  // namespace edgebuild::runner
