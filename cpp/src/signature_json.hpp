// The JSON form of a signature, as in the manifest (docs/bundle-format.md).

#ifndef EDGEBUILD_SRC_SIGNATURE_JSON_HPP_
#define EDGEBUILD_SRC_SIGNATURE_JSON_HPP_

#include "edgebuild/signature.hpp"
#include "json_writer.hpp"

namespace edgebuild {

void write_signature(JsonWriter& json, const Signature& signature);

}  // namespace edgebuild

#endif  // EDGEBUILD_SRC_SIGNATURE_JSON_HPP_
