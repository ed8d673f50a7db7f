#include "runner/requirements.hpp"

#include <doctest/doctest.h>

#include "support.hpp"

namespace {

using edgebuild::bundle::Requirements;
using edgebuild::runner::Machine;
using edgebuild::runner::missing_requirement;
using edgebuild::runner::probe_machine;
using edgebuild::testing::TemporaryFolder;
using edgebuild::testing::write_file;

TEST_CASE("what the kernel lists is read, and the memory that can be had") {
  const TemporaryFolder root;
  write_file(root.path() / "proc/cpuinfo", "processor\t: 0\nFeatures\t: fp asimd\n");
  write_file(root.path() / "proc/meminfo", "MemTotal:  100 kB\nMemAvailable:   2048 kB\n");
  const Machine machine = probe_machine(root.path(), {});
  CHECK(machine.cpu_features == std::set<std::string>{"asimd", "fp"});
  CHECK(machine.free_memory == 2048u * 1024u);
}

TEST_CASE("a CPU is named by the system's words and by the parts of its cores") {
  const TemporaryFolder root;
  const auto model = [&](const std::string& cpuinfo) {
    write_file(root.path() / "proc/cpuinfo", cpuinfo);
    return probe_machine(root.path()).cpu_model;
  };
  CHECK(model("processor\t: 0\nmodel name\t: Example CPU @ 2GHz\nprocessor\t: 1\nmodel name\t: Other\n") ==
        "Example CPU @ 2GHz");
  const std::string cores =
      "CPU implementer\t: 0x41\nCPU part\t: 0xd08\n\nCPU implementer\t: 0x41\nCPU part\t: 0xd03\n";
  CHECK(model(cores) == "0x41:0xd03 0x41:0xd08");
  CHECK(model(cores + "\nModel\t\t: Some Board Rev 1.4\n") == "Some Board Rev 1.4 0x41:0xd03 0x41:0xd08");
  CHECK(model("isa\t: rv64imafdc\nuarch\t: sifive,u74\n") == "sifive,u74");
  CHECK(model("") == "unknown");
}

TEST_CASE("a control group's limit lowers the free memory, also one further up, and dropped caches count as free") {
  const TemporaryFolder root;
  write_file(root.path() / "proc/meminfo", "MemAvailable: 1000000 kB\n");
  write_file(root.path() / "proc/self/cgroup", "0::/a/b\n");
  write_file(root.path() / "sys/fs/cgroup/a/b/memory.max", "max\n");
  write_file(root.path() / "sys/fs/cgroup/a/memory.max", "1000\n");
  write_file(root.path() / "sys/fs/cgroup/a/memory.current", "900\n");
  write_file(root.path() / "sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 300\n");
  CHECK(probe_machine(root.path()).free_memory == 400u);
}

TEST_CASE("what is missing is named with what is there") {
  Machine machine;
  machine.cpu_features = {"sse4_2"};
  machine.glibc = "2.9";
  machine.free_memory = std::uint64_t{64} << 20;
  Requirements needed;
  CHECK_FALSE(missing_requirement(needed, machine));
  needed.cpu_features = {"avx512_vnni", "sse4_2", "avx2"};
  CHECK(missing_requirement(needed, machine) == "this CPU lacks avx512_vnni, avx2");
  needed.cpu_features.clear();
  needed.glibc = "2.28";  // Not less than 2.9 as text.
  CHECK(missing_requirement(needed, machine) == "it needs glibc 2.28, this machine has 2.9");
  machine.glibc = "2.28";
  CHECK_FALSE(missing_requirement(needed, machine));
  needed.memory_bytes = (std::uint64_t{64} << 20) + 1;
  CHECK(missing_requirement(needed, machine) == "it needs 65 MiB of memory, 64 MiB are free");
  needed.memory_bytes = std::uint64_t{64} << 20;
  needed.compute_capability = "8.7";
  CHECK(missing_requirement(needed, machine) ==
        "it needs a CUDA device of compute capability 8.7, there is no CUDA device");
}

TEST_CASE("this machine can be probed") {
  const Machine machine = probe_machine();
  CHECK(machine.arch != "unknown");
  CHECK_FALSE(machine.cpu_features.empty());
  CHECK(machine.free_memory.value_or(0) > 0);
  CHECK(machine.processors > 0);
}

}  // namespace
