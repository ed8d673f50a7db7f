// edgebuild's own operators, domain "edgebuild" version 1, for graphs that the builder writes:
//
//   QuantizeRows(X, factors?, columns?, shifts?) -> (Y, scale, zero_point, sizes?)   attributes scale_rows: 0 or 1,
//                                                                                    terms: 1 or 2
//     X float (..., K); factors float (K + E); columns int64 (E); shifts float (E)
//     Y uint8 (..., K + E): rows prepared as in rows.hpp, on the range of all of them; scale float (); zero_point uint8
//     (); sizes float (..., 1): what each row was divided by, if scale_rows is 1.
//     With two terms, for which scale_rows is 1, Y and sizes have an axis more in front: (2, ..., K + E), (2, ..., 1).
//   RescaleRows(X, sizes, bias?) -> Y   attribute terms: 1 or 2
//     X float (..., N), sizes float (..., 1), bias float (N); Y = X * sizes + bias
//     With two terms X is (2, ..., N), sizes (2, ..., 1) and Y (..., N) = X[0] * sizes[0] + X[1] * sizes[1] + bias.

#ifndef EDGEBUILD_BACKENDS_ONNXRUNTIME_OPERATORS_REGISTER_HPP_
#define EDGEBUILD_BACKENDS_ONNXRUNTIME_OPERATORS_REGISTER_HPP_

#include "onnxruntime/onnxruntime_c_api.h"

namespace edgebuild::onnxruntime {

/// The operators as a domain of one engine library, to be added to the options of sessions, which it must outlive.
/// @return The engine's status; null: success.
[[nodiscard]] OrtStatus* make_operators(const OrtApi& api, OrtCustomOpDomain** out);

}  // namespace edgebuild::onnxruntime

#endif  // EDGEBUILD_BACKENDS_ONNXRUNTIME_OPERATORS_REGISTER_HPP_
