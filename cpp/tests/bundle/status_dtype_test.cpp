#include <doctest/doctest.h>

#include <limits>
#include <memory>

#include "edgebuild/signature.hpp"
#include "edgebuild/status.hpp"

namespace edgebuild {
namespace {

TEST_CASE("a status keeps its code and message through copies, moves and context") {
  CHECK(Status().ok());
  CHECK(Status().message().empty());
  CHECK(Status(Code::kOk, "ignored").ok());
  const Status status(Code::kCorrupt, "x: broken");
  Status copy = status;
  CHECK(copy.code() == Code::kCorrupt);
  CHECK(copy.message() == "x: broken");
  copy = copy.with_context("file");
  CHECK(copy.message() == "file: x: broken");
  copy = Status();
  CHECK(copy.ok());
  CHECK(Status().with_context("anything").ok());
}

TEST_CASE("every code has its exit code and name") {
  const std::pair<Code, int> expected[] = {{Code::kOk, 0},
                                           {Code::kInternal, 1},
                                           {Code::kUsage, 2},
                                           {Code::kNotFound, 2},
                                           {Code::kCorrupt, 3},
                                           {Code::kInvalidArgument, 4},
                                           {Code::kBufferTooSmall, 4},
                                           {Code::kIncompatible, 5},
                                           {Code::kUnsupported, 5},
                                           {Code::kGateFailed, 6},
                                           {Code::kResourceExhausted, 8},
                                           {Code::kIo, 10},
                                           {Code::kDeadlineExceeded, 11},
                                           {Code::kCancelled, 130}};
  for (const auto& [code, number] : expected) {
    CHECK(exit_code(code) == number);
    CHECK(std::string(code_name(code)) != "unknown error");
  }
  CHECK(exit_code(static_cast<Code>(99)) == 1);
  CHECK(std::string(code_name(static_cast<Code>(99))) == "unknown error");
}

TEST_CASE("a dtype's name leads back to it, and nothing else does") {
  for (int number = EB_FLOAT32; number <= EB_INT2; ++number) {
    const auto dtype = static_cast<DType>(number);
    CHECK(dtype_from_name(dtype_name(dtype)) == dtype);
  }
  CHECK(!dtype_from_name("undefined"));
  CHECK(!dtype_from_name("Float32"));
  CHECK(!dtype_from_name(""));
  CHECK(std::string(dtype_name(EB_DTYPE_UNDEFINED)) == "undefined");
  CHECK(std::string(dtype_name(static_cast<DType>(27))) == "undefined");
}

TEST_CASE("dtype_bytes packs sub-byte types and refuses what overflows") {
  constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();
  CHECK(dtype_bytes(EB_FLOAT32, 3) == 12u);
  CHECK(dtype_bytes(EB_INT4, 3) == 2u);
  CHECK(dtype_bytes(EB_INT2, 5) == 2u);
  CHECK(dtype_bytes(EB_INT2, 4) == 1u);
  CHECK(dtype_bytes(EB_INT4, kMax) == kMax / 2 + 1);
  CHECK(dtype_bytes(EB_UINT8, kMax) == kMax);
  CHECK(!dtype_bytes(EB_FLOAT16, kMax));
  CHECK(dtype_bytes(EB_COMPLEX128, kMax / 16) == kMax / 16 * 16);
  CHECK(!dtype_bytes(EB_COMPLEX128, kMax / 16 + 1));
  CHECK(dtype_bytes(EB_STRING, 2) == 2 * sizeof(eb_string));
  CHECK(!dtype_bytes(EB_DTYPE_UNDEFINED, 1));
}

TEST_CASE("a type is written as users write it") {
  TypeSpec type;
  type.dtype = EB_FLOAT32;
  CHECK(to_string(type) == "float32[...]");
  type.shape.emplace();
  CHECK(to_string(type) == "float32[]");
  type.shape = std::vector<Dim>{{Dim::Kind::kSymbol, 0, "batch"}, {Dim::Kind::kFixed, 3, ""}, {}};
  CHECK(to_string(type) == "float32[batch,3,?]");
  TypeSpec sequence;
  sequence.kind = EB_KIND_SEQUENCE;
  sequence.element = std::make_shared<const TypeSpec>(type);
  TypeSpec optional;
  optional.kind = EB_KIND_OPTIONAL;
  optional.element = std::make_shared<const TypeSpec>(sequence);
  CHECK(to_string(optional) == "optional(sequence(float32[batch,3,?]))");
}

}  // namespace
}  // namespace edgebuild
