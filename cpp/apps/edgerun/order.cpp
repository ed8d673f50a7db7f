#include "order.hpp"

#include "runner/select.hpp"

namespace edgerun {

using edgebuild::bundle::Manifest;
using edgebuild::runner::VariantOrder;

VariantOrder held_order(const edgebuild::bundle::Bundle& bundle, const CommonOptions& options) {
  const unsigned threads = edgebuild::runner::asked_threads(options.options);
  return edgebuild::runner::order_here(bundle, options.state_dir, threads, !options.no_tuning);
}

void write_order(JsonWriter& json, const Manifest& manifest, const VariantOrder& order) {
  json.key("order").begin_object().key("variants").begin_array();
  for (const std::size_t index : order.indices) json.value(manifest.variants[index].name);
  json.end_array().member("tuned", order.tuning.has_value()).member("why", order.why).end_object();
}

std::string order_text(const Manifest& manifest, const VariantOrder& order) {
  std::string names;
  for (const std::size_t index : order.indices) {
    names.append(names.empty() ? "" : ", ").append(manifest.variants[index].name);
  }
  return "  " + names + "\n  " + order.why + "\n";
}

}  // namespace edgerun
