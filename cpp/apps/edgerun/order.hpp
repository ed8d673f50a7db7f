// In which order a bundle's variants would be tried here, for people and programs.

#ifndef EDGEBUILD_APPS_EDGERUN_ORDER_HPP_
#define EDGEBUILD_APPS_EDGERUN_ORDER_HPP_

#include <string>

#include "bundle/bundle.hpp"
#include "command.hpp"
#include "runner/tuning.hpp"

namespace edgerun {

/// The order that a load with these options takes, as far as no variant or backend is asked for.
[[nodiscard]] edgebuild::runner::VariantOrder held_order(const edgebuild::bundle::Bundle& bundle,
                                                         const CommonOptions& options);

/// The member "order" of a JSON object: the variants' names, whether the order was tuned, and why it holds.
void write_order(JsonWriter& json, const edgebuild::bundle::Manifest& manifest,
                 const edgebuild::runner::VariantOrder& order);

/// Two indented lines: the names, and why.
[[nodiscard]] std::string order_text(const edgebuild::bundle::Manifest& manifest,
                                     const edgebuild::runner::VariantOrder& order);

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_ORDER_HPP_
