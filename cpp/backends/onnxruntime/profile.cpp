// Profiles. ONNX Runtime profiles a session from its creation until its profile is ended, into a file. So profiled runs
// go to a session of their own, made at the first of them and ended when the profile is read.

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "onnxruntime/context.hpp"

namespace edgebuild::onnxruntime {
namespace {

std::string temporary_prefix() {
  const char* const folder = std::getenv("TMPDIR");
  static std::atomic<unsigned> counter{0};
  return std::string(folder != nullptr && *folder != '\0' ? folder : "/tmp") + "/edgebuild-profile-" +
         std::to_string(getpid()) + "-" + std::to_string(counter.fetch_add(1));
}

std::string text_of(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

}  // namespace

bool ProfileTable::add(const std::string& json) {
  const nlohmann::json events = nlohmann::json::parse(json, nullptr, false);
  if (!events.is_array()) return false;
  static const std::string suffix = "_kernel_time";
  for (const nlohmann::json& event : events) {
    if (!event.is_object() || text_of(event, "cat") != "Node") continue;
    std::string node = text_of(event, "name");
    const auto args = event.find("args");
    const auto duration = event.find("dur");
    if (args == event.end() || !args->is_object() || duration == event.end() || !duration->is_number()) continue;
    if (node.size() < suffix.size() || node.compare(node.size() - suffix.size(), suffix.size(), suffix) != 0) continue;
    node.resize(node.size() - suffix.size());
    const std::string op_type = text_of(*args, "op_name");
    Row* row = nullptr;
    const auto known = index.find({node, op_type});
    if (known != index.end()) {
      row = &rows[known->second];
    } else {
      index[{node, op_type}] = rows.size();
      row = &rows.emplace_back(Row{node, op_type, text_of(*args, "provider"), 0, 0});
    }
    row->duration_ns += static_cast<std::uint64_t>(duration->get<double>() * 1000.0);  // Microseconds in the file.
    row->calls += 1;
  }
  return true;
}

void ProfileTable::publish() {
  entries.clear();
  for (const Row& row : rows) {
    entries.push_back({row.node.c_str(), row.op_type.c_str(), row.provider.c_str(), row.duration_ns, row.calls});
  }
}

eb_status* Context::begin_profile() {
  if (profile_session_) return nullptr;
  EDGEBUILD_PLUGIN_TRY(model_.profiling_session(temporary_prefix(), &profile_session_));
  profile_bindings_ = std::make_unique<Bindings>();
  eb_status* const status = make_bindings(profile_session_.get(), profile_bindings_.get());
  if (status != nullptr) {
    profile_bindings_.reset();
    profile_session_.reset();
  }
  return status;
}

eb_status* Context::end_profile() {
  if (!profile_session_) return nullptr;
  const OrtApi& api = backend().api();
  char* path = nullptr;
  eb_status* const status =
      backend().take(api.SessionEndProfiling(profile_session_.get(), backend().allocator(), &path), "profile");
  profile_bindings_.reset();
  profile_session_.reset();
  if (status != nullptr) return status;
  std::string text;
  {
    std::ifstream file(path, std::ios::binary);
    text.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  unlink(path);
  const std::string name = path;
  backend().discard(api.AllocatorFree(backend().allocator(), path));
  if (profile_.add(text)) return nullptr;
  return plugin::make_error(backend().host(), EB_IO,
                            "ONNX Runtime's profile " + name + " can't be read; is the folder writable and not full?");
}

eb_status* Context::profile_read(const eb_profile_entry** entries, std::size_t* count) {
  EDGEBUILD_PLUGIN_TRY(end_profile());
  profile_.publish();
  *entries = profile_.entries.data();
  *count = profile_.entries.size();
  return nullptr;
}

}  // namespace edgebuild::onnxruntime
