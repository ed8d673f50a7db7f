// prepare: makes on this machine what variants need before they can run, such as TensorRT's plans.

#include "bundle/bundle.hpp"
#include "command.hpp"
#include "loader.hpp"
#include "prepare.hpp"
#include "table.hpp"

namespace edgerun {
namespace {

using edgebuild::Result;
using edgebuild::Status;
using edgebuild::bundle::Bundle;

const char* result_of(const Prepared& one) {
  switch (one.result) {
    case Prepared::Result::kReady:
      return one.made ? "made" : "ready";
    case Prepared::Result::kFailed:
      return "failed";
    default:
      return "nothing to make";
  }
}

std::string to_json(const Bundle& bundle, const std::vector<Prepared>& prepared, const Status& status) {
  JsonWriter json;
  json.begin_object().member("schema", "edgebuild.prepare/1").member("bundle_id", bundle.id());
  json.member("goldens", bundle.manifest().goldens.size()).key("variants").begin_array();
  for (const Prepared& one : prepared) {
    json.begin_object().member("variant", one.variant).member("result", result_of(one)).member("seconds", one.seconds);
    if (!one.failure.ok()) json.member("reason", in_users_words(one.failure.message()));
    json.end_object();
  }
  json.end_array();
  if (!status.ok()) {
    json.key("error").begin_object().member("code", edgebuild::code_name(status.code()));
    json.member("message", in_users_words(status.message())).key("hint").null().end_object();
  }
  json.member("exit_code", status.ok() ? 0 : edgebuild::exit_code(status.code())).end_object();
  return json.text() + "\n";
}

std::string to_text(const std::vector<Prepared>& prepared) {
  Table table({{"variant", {}}, {"result", {}}, {"time", Table::Align::kRight}}, 0);
  bool any = false;
  for (const Prepared& one : prepared) {
    any = any || one.result != Prepared::Result::kNothing;
    table.add({one.variant, result_of(one), one.made ? format_seconds(one.seconds) : "-"});
  }
  std::string text = bold("prepared") + "\n" + table.text();
  for (const Prepared& one : prepared) {
    if (!one.failure.ok()) text += "  " + in_users_words(one.failure.message()) + "\n";
  }
  return any ? text : text + "  this bundle's variants run as they are\n";
}

}  // namespace

Status prepare_command(const PrepareOptions& options, int& exit_code) {
  Result<Bundle> bundle = Bundle::open(options.bundle);
  if (!bundle.ok()) return bundle.status();
  EDGEBUILD_RETURN_IF_ERROR(enter_loader(bundle.value()));
  std::vector<Prepared> prepared;
  EDGEBUILD_RETURN_IF_ERROR(
      prepare_variants(bundle.value(), options, {.all = options.all, .anew = options.anew}, &prepared));
  const Status status = why_none_ready(prepared);
  EDGEBUILD_RETURN_IF_ERROR(print(options.json ? to_json(bundle.value(), prepared, status) : to_text(prepared)));
  if (status.ok() || !options.json) return status;
  exit_code = edgebuild::exit_code(status.code());
  return {};
}

}  // namespace edgerun
