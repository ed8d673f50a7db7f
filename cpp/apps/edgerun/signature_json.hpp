// The JSON form of a signature, as in the manifest (docs/bundle-format.md).

#ifndef EDGEBUILD_APPS_EDGERUN_SIGNATURE_JSON_HPP_
#define EDGEBUILD_APPS_EDGERUN_SIGNATURE_JSON_HPP_

#include "edgebuild/signature.hpp"
#include "json_writer.hpp"

namespace edgerun {

void write_signature(JsonWriter& json, const edgebuild::Signature& signature);

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_SIGNATURE_JSON_HPP_
