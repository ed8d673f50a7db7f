#include <doctest/doctest.h>

#include "runner/host_api.hpp"
#include "runner/registry.hpp"

namespace {

using edgebuild::Code;

TEST_CASE("a plugin is compatible if the majors are equal and its minor is not above the host's") {
  struct Row {
    std::uint32_t plugin_major, plugin_minor, host_major, host_minor;
    bool compatible;
  };
  const Row rows[] = {
      {1, 0, 1, 0, true},  {1, 0, 1, 5, true},  {1, 5, 1, 5, true},  {1, 6, 1, 5, false}, {1, 1, 1, 0, false},
      {2, 0, 1, 0, false}, {2, 0, 1, 9, false}, {1, 0, 2, 0, false}, {0, 0, 1, 0, false}, {1, 9, 2, 9, false},
  };
  for (const Row& row : rows) {
    CAPTURE(row.plugin_major);
    CAPTURE(row.plugin_minor);
    CAPTURE(row.host_major);
    CAPTURE(row.host_minor);
    CHECK((eb_abi_compatible(row.plugin_major, row.plugin_minor, row.host_major, row.host_minor) != 0) ==
          row.compatible);
  }
}

/// A plugin of another version, which refuses hosts as a plugin does.
template <std::uint16_t major, std::uint16_t minor>
const eb_backend_api* query(std::uint32_t host_major, std::uint32_t host_minor) {
  static const eb_backend_api api = [] {
    eb_backend_api table{};
    table.struct_size = sizeof(eb_backend_api);
    table.abi_major = major;
    table.abi_minor = minor;
    return table;
  }();
  return eb_abi_compatible(major, minor, host_major, host_minor) != 0 ? &api : nullptr;
}

const eb_backend_api* query_careless(std::uint32_t /*host_major*/, std::uint32_t /*host_minor*/) {
  return query<3, 1>(3, 1);
}

TEST_CASE("a plugin of another version is refused, and both versions are named") {
  const edgebuild::Result<const eb_backend_api*> newer_minor =
      edgebuild::runner::query_backend(query<1, 7>, "plugin p");
  REQUIRE(newer_minor.status().code() == Code::kIncompatible);
  CHECK(newer_minor.status().message().find("plugin p speaks plugin ABI 1.7, this runner speaks 1.1") == 0);
  const auto newer_major = edgebuild::runner::query_backend(query<2, 3>, "plugin p");
  REQUIRE(newer_major.status().code() == Code::kIncompatible);
  CHECK(newer_major.status().message().find("ABI 2.3") != std::string::npos);
  const auto careless = edgebuild::runner::query_backend(query_careless, "plugin p");
  REQUIRE(careless.status().code() == Code::kIncompatible);
  CHECK(careless.status().message().find("ABI 3.1") != std::string::npos);
  CHECK(edgebuild::runner::query_backend(query<1, 0>, "plugin p").ok());
}

TEST_CASE("every built-in backend answers under its own name") {
  for (const auto& builtin : edgebuild::runner::builtin_backends()) {
    const auto api = edgebuild::runner::find_builtin(builtin.name);
    REQUIRE(api.ok());
    CHECK(std::string(api.value()->name) == builtin.name);
  }
  const auto missing = edgebuild::runner::find_builtin("tensorrt");
  CHECK(missing.status().code() == Code::kIncompatible);
  CHECK(missing.status().message().find("onnxruntime, reference") != std::string::npos);
}

TEST_CASE("the host's allocator aligns, gives nothing for size 0, and frees NULL") {
  const eb_host_api& host = edgebuild::runner::host_api();
  for (const std::size_t alignment : {1u, 8u, 64u, 4096u}) {
    void* const memory = host.allocate(host.user, 10, alignment);
    REQUIRE(memory != nullptr);
    CHECK(reinterpret_cast<std::uintptr_t>(memory) % alignment == 0);
    host.deallocate(host.user, memory);
  }
  CHECK(host.allocate(host.user, 0, 8) == nullptr);
  host.deallocate(host.user, nullptr);
}

TEST_CASE("a plugin's status keeps code and message, and an unknown code becomes an internal error") {
  const eb_host_api& host = edgebuild::runner::host_api();
  const edgebuild::Status status =
      edgebuild::runner::take_status(host.status_create(host.user, EB_UNSUPPORTED, "no op!", 5));
  CHECK(status.code() == Code::kUnsupported);
  CHECK(status.message() == "no op");
  CHECK(edgebuild::runner::take_status(host.status_create(host.user, 999, "x", 1)).code() == Code::kInternal);
  CHECK(edgebuild::runner::take_status(nullptr).ok());
}

}  // namespace
