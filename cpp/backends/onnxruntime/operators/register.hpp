// edgebuild's own operators, domain "edgebuild" version 1, for graphs that the builder writes:
//
//   QuantizeRows(X, factors?, columns?, shifts?) -> (Y, scale, zero_point, sizes?, offsets?)
//     attributes scale_rows: 0 or 1; terms: 1 or 2
//     X float (..., K); factors float (K + E); columns int64 (E); shifts float (E)
//     Y uint8 (..., K + E): rows prepared as in rows.hpp; scale float (); zero_point uint8 (), of the range of all
//     rows. scale_rows: each row on its own range; scale is 1, zero_point 128, sizes float (..., 1) the rows' scales,
//     offsets
//       float (..., 1) 128 less their zero points.
//     terms 2 (with scale_rows): Y and sizes have an axis more in front, (2, ..., K + E) and (2, ..., 1); no offsets.
//   RescaleRows(X, sizes, bias?, offsets?, sums?) -> Y   attributes terms: 1 or 2; gelu: 0 or 1
//     X float (..., N), sizes, offsets float (..., 1), bias, sums float (N); Y = (X + offsets * sums) * sizes + bias,
//       where sums are those of the weights that each column of X was made with.
//     terms 2: X is (2, ..., N), sizes (2, ..., 1) and Y (..., N) = X[0] * sizes[0] + X[1] * sizes[1] + bias.
//     gelu: y / 2 * (1 + erf(y / sqrt(2))) of all that.

#ifndef EDGEBUILD_BACKENDS_ONNXRUNTIME_OPERATORS_REGISTER_HPP_
#define EDGEBUILD_BACKENDS_ONNXRUNTIME_OPERATORS_REGISTER_HPP_

#include "onnxruntime/onnxruntime_c_api.h"

namespace edgebuild::onnxruntime {

/// The operators as a domain of one engine library, to be added to the options of sessions, which it must outlive.
/// @return The engine's status; null: success.
[[nodiscard]] OrtStatus* make_operators(const OrtApi& api, OrtCustomOpDomain** out);

}  // namespace edgebuild::onnxruntime

#endif  // EDGEBUILD_BACKENDS_ONNXRUNTIME_OPERATORS_REGISTER_HPP_
