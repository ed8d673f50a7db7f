#include "compare.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

using edgebuild::Value;
using edgerun::compare;
using edgerun::decode_float;

namespace {

template <typename T>
Value tensor(edgebuild::DType dtype, const std::vector<T>& data, std::vector<std::int64_t> shape) {
  auto value = Value::view(dtype, shape, data.data(), data.size() * sizeof(T));
  REQUIRE(value.ok());
  return std::move(value).value();
}

}  // namespace

TEST_CASE("small floats decode as their formats say") {
  CHECK(decode_float(EB_FLOAT16, 0x3C00) == 1.0);
  CHECK(decode_float(EB_FLOAT16, 0x0001) == std::ldexp(1.0, -24));
  CHECK(std::isinf(decode_float(EB_FLOAT16, 0xFC00)));
  CHECK(decode_float(EB_BFLOAT16, 0xC040) == -3.0);
  CHECK(decode_float(EB_FLOAT8_E4M3FN, 0x7E) == 448.0);
  CHECK(std::isnan(decode_float(EB_FLOAT8_E4M3FN, 0xFF)));
  CHECK(decode_float(EB_FLOAT8_E4M3FNUZ, 0x7F) == 240.0);
  CHECK(std::isnan(decode_float(EB_FLOAT8_E4M3FNUZ, 0x80)));
  CHECK(decode_float(EB_FLOAT8_E5M2, 0x7B) == 57344.0);
  CHECK(std::isinf(decode_float(EB_FLOAT8_E5M2, 0x7C)));
  CHECK(decode_float(EB_FLOAT8_E5M2FNUZ, 0x7F) == 57344.0);
  CHECK(decode_float(EB_FLOAT8_E8M0, 127) == 1.0);
  CHECK(decode_float(EB_FLOAT4_E2M1, 0x7) == 6.0);
  CHECK(decode_float(EB_FLOAT4_E2M1, 0x9) == -0.5);
}

TEST_CASE("the worst element is found with its index") {
  const std::vector<float> golden{1, 2, 3, 4, 5, 6};
  const std::vector<float> got{1, 2, 3.01F, 4, 5, 6.5F};
  const auto result =
      compare(tensor(EB_FLOAT32, got, {2, 3}).raw(), tensor(EB_FLOAT32, golden, {2, 3}).raw(), 0.02, 0.0);
  CHECK(result.elements == 6);
  CHECK(result.outside == 1);
  CHECK(result.max_error == doctest::Approx(0.5));
  CHECK(result.worst.index == std::vector<std::int64_t>{1, 2});
  CHECK(result.worst.allowed == 0.02);
  CHECK_FALSE(result.agrees());
}

TEST_CASE("NaN equals NaN, and an infinity equals itself only") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double inf = std::numeric_limits<double>::infinity();
  const std::vector<double> golden{nan, inf, -inf, 1, nan, inf};
  const auto agree = [&](const std::vector<double>& got) {
    return compare(tensor(EB_FLOAT64, got, {6}).raw(), tensor(EB_FLOAT64, golden, {6}).raw(), 1e3, 1e3).outside;
  };
  CHECK(agree(golden) == 0);
  CHECK(agree({nan, inf, -inf, 1, 0, 1}) == 2);
  CHECK(agree({1, -inf, -inf, nan, nan, inf}) == 3);
}

TEST_CASE("large integers are compared exactly") {
  const std::vector<std::int64_t> golden{std::numeric_limits<std::int64_t>::max(),
                                         std::numeric_limits<std::int64_t>::min()};
  const std::vector<std::int64_t> got{golden[0] - 1, golden[1]};
  const auto result = compare(tensor(EB_INT64, got, {2}).raw(), tensor(EB_INT64, golden, {2}).raw(), 0, 0);
  CHECK(result.outside == 1);
  CHECK(result.worst.error == 1.0);
}

TEST_CASE("packed signed elements are compared one by one") {
  const std::vector<std::uint8_t> golden{0x8F};  // -1, -8
  const std::vector<std::uint8_t> got{0x7F};     // -1, 7
  const auto result = compare(tensor(EB_INT4, got, {2}).raw(), tensor(EB_INT4, golden, {2}).raw(), 0, 0);
  CHECK(result.outside == 1);
  CHECK(result.worst.error == 15.0);
  CHECK(result.worst.got == "7");
}

TEST_CASE("shapes, dtypes, kinds and lengths must be equal") {
  const std::vector<float> data(6);
  const Value a = tensor(EB_FLOAT32, data, {2, 3});
  CHECK(compare(a.raw(), tensor(EB_FLOAT32, data, {3, 2}).raw(), 1, 1).structure_error.find("float32[2,3]") !=
        std::string::npos);
  CHECK_FALSE(compare(a.raw(), Value().raw(), 1, 1).agrees());
  CHECK_FALSE(compare(Value::sequence({}).raw(), a.raw(), 1, 1).agrees());
  CHECK(compare(Value().raw(), Value().raw(), 0, 0).agrees());
  const std::vector<float> none;
  CHECK(compare(tensor(EB_FLOAT32, none, {0, 3}).raw(), tensor(EB_FLOAT32, none, {0, 3}).raw(), 0, 0).agrees());
}
