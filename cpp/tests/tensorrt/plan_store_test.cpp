// Plans on disk: what is believed, what is not, and who may write.

#include "tensorrt/plan_store.hpp"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <random>
#include <thread>

#include "support.hpp"

namespace {

using namespace edgebuild;            // NOLINT
using namespace edgebuild::tensorrt;  // NOLINT
using edgebuild::testing::read_file;
using edgebuild::testing::TemporaryFolder;
using edgebuild::testing::write_file;

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }
std::string text_of(const Bytes& bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }
bool has(const Status& status, const std::string& text) { return status.message().find(text) != std::string::npos; }

PlanKey key() { return {std::string(64, 'a'), "workspace_mib 64\n", {"10.3.0.26", "12.6", "Orin, 8.7, 16 SMs"}}; }

/// A store with a plan that passed.
struct Kept {
  TemporaryFolder folder;
  PlanStore store{folder.path().string(), ::geteuid()};
  std::string path;
  Kept() {
    const Result<BuilderLock> lock = store.lock({});
    REQUIRE(lock.ok());
    REQUIRE(store.keep(key(), "12.6", bytes_of("the plan")).ok());
    REQUIRE(store.settle(key(), true).ok());
    path = store.folder() + "/" + key().id() + ".plan";
  }
};

TEST_CASE("a plan serves only once it has passed, and a refused one is gone") {
  const TemporaryFolder folder;
  const PlanStore store(folder.path().string(), ::geteuid());
  CHECK(has(store.ready(key()).status(), "there is no plan for this model on this machine yet"));
  const Result<BuilderLock> lock = store.lock({});
  REQUIRE(lock.ok());
  REQUIRE(store.keep(key(), "12.6", bytes_of("first")).ok());
  CHECK(store.ready(key()).status().code() == Code::kNotFound);
  CHECK(text_of(store.pending(key()).value()) == "first");
  REQUIRE(store.settle(key(), false).ok());
  CHECK(!store.pending(key()).ok());
  REQUIRE(store.keep(key(), "12.6", bytes_of("second")).ok());
  REQUIRE(store.settle(key(), true).ok());
  CHECK(!store.pending(key()).ok());
  CHECK(text_of(store.ready(key()).value()) == "second");
  REQUIRE(store.remove(key()).ok());
  CHECK(!store.ready(key()).ok());
  CHECK(store.remove(key()).ok());
}

TEST_CASE("a plan of another machine, model or recipe is never given, and the difference is said") {
  const Kept kept;
  REQUIRE(kept.store.ready(key()).ok());
  PlanKey other = key();
  other.machine.tensorrt = "10.5.0.18";
  CHECK(has(kept.store.ready(other).status(), "it was made with tensorrt 10.3.0.26, here is 10.5.0.18"));
  other = key();
  other.machine.cuda = "13.0";
  CHECK(has(kept.store.ready(other).status(), "it was made with cuda 12.6, here is 13.0"));
  other = key();
  other.machine.gpu = "Orin, 8.7, 8 SMs";
  CHECK(has(kept.store.ready(other).status(), "it was made with gpu Orin, 8.7, 16 SMs, here is Orin, 8.7, 8 SMs"));
  other = key();
  other.recipe = "workspace_mib 65\n";
  CHECK(!kept.store.ready(other).ok());
  other = key();
  other.model = std::string(64, 'b');
  CHECK(!kept.store.ready(other).ok());
  // One model's plan under another's name: moved there by hand.
  std::filesystem::copy(kept.path, kept.store.folder() + "/" + other.id() + ".plan");
  CHECK(has(kept.store.ready(other).status(), "another model or recipe"));
}

TEST_CASE("a plan with any bit flipped, cut off anywhere or longer is not believed") {
  const Kept kept;
  const std::string whole = read_file(kept.path);
  std::mt19937 random(5);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    write_file(kept.path, whole.substr(0, size));
    CAPTURE(size);
    CHECK(kept.store.ready(key()).status().code() == Code::kNotFound);
  }
  for (std::size_t at = 0; at < whole.size(); ++at) {
    std::string flipped = whole;
    flipped[at] = static_cast<char>(flipped[at] ^ (1 << (random() % 8)));
    write_file(kept.path, flipped);
    CAPTURE(at);
    CHECK(!kept.store.ready(key()).ok());
  }
  write_file(kept.path, whole + "x");
  CHECK(has(kept.store.ready(key()).status(), "cut off or damaged"));
  write_file(kept.path, whole);
  CHECK(kept.store.ready(key()).ok());
}

TEST_CASE("a plan that somebody else could have written is not believed") {
  const Kept kept;
  REQUIRE(::chmod(kept.path.c_str(), 0620) == 0);
  CHECK(has(kept.store.ready(key()).status(), "can be written by others than its owner"));
  REQUIRE(::chmod(kept.path.c_str(), 0602) == 0);
  CHECK(has(kept.store.ready(key()).status(), "can be written by others than its owner"));
  REQUIRE(::chmod(kept.path.c_str(), 0644) == 0);
  CHECK(kept.store.ready(key()).ok());
  REQUIRE(::chmod(kept.store.folder().c_str(), 0777) == 0);
  CHECK(has(kept.store.ready(key()).status(), "folder " + kept.store.folder() + " can be written by others"));
  REQUIRE(::chmod(kept.store.folder().c_str(), 0700) == 0);
  // Seen from another user's place: the files are this one's.
  const PlanStore theirs(kept.folder.path().string(), ::geteuid() + 1);
  if (::geteuid() != 0) CHECK(has(theirs.ready(key()).status(), "belongs to user"));
  const std::string aside = kept.path + ".aside";
  std::filesystem::rename(kept.path, aside);
  std::filesystem::create_symlink(aside, kept.path);
  CHECK(has(kept.store.ready(key()).status(), "is a link"));
  std::filesystem::remove(kept.path);
  REQUIRE(::mkfifo(kept.path.c_str(), 0600) == 0);  // Must not hang.
  CHECK(has(kept.store.ready(key()).status(), "no regular file"));
}

TEST_CASE("what a reader sees is private to the user") {
  const Kept kept;
  struct stat info = {};
  REQUIRE(::stat(kept.path.c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0600);
  REQUIRE(::stat(kept.store.folder().c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0700);
}

TEST_CASE("one builds at a time, others wait and hear so") {
  const TemporaryFolder folder;
  const PlanStore store(folder.path().string(), ::geteuid());
  std::atomic<int> inside = 0;
  std::atomic<int> most = 0;
  std::atomic<int> waited = 0;
  const auto build = [&] {
    const Result<BuilderLock> lock = store.lock([&](std::string_view step, std::uint32_t, std::uint32_t) {
      if (step.find("waiting for another process") == 0) ++waited;
    });
    REQUIRE(lock.ok());
    most = std::max(most.load(), ++inside);
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    --inside;
  };
  std::thread a(build);
  std::thread b(build);
  std::thread c(build);
  a.join();
  b.join();
  c.join();
  CHECK(most == 1);
  CHECK(waited > 0);
}

TEST_CASE("a builder that dies gives its lock back, and what it left half-written is removed") {
  const TemporaryFolder folder;
  const PlanStore store(folder.path().string(), ::geteuid());
  const pid_t child = ::fork();
  if (child == 0) {
    const Result<BuilderLock> lock = store.lock({});
    ::_exit(lock.ok() ? 0 : 1);  // No destructor runs.
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(status == 0);
  const std::string half = store.folder() + "/" + key().id() + ".plan.new.AbCdEf";
  const std::string other = store.folder() + "/notes.txt";
  write_file(half, "half a plan");
  write_file(other, "a user's");
  const Result<BuilderLock> lock = store.lock({});
  REQUIRE(lock.ok());
  CHECK(!std::filesystem::exists(half));
  CHECK(std::filesystem::exists(other));
}

TEST_CASE("a state folder that can't be made is said") {
  const TemporaryFolder folder;
  write_file(folder.path() / "file", "");
  const PlanStore store((folder.path() / "file").string(), ::geteuid());
  const Status status = store.lock({}).status();
  CHECK(!status.ok());
  CHECK(has(status, (folder.path() / "file").string()));
}

TEST_CASE("a timing cache is kept for its machine alone, and a damaged one is none") {
  const TemporaryFolder folder;
  const PlanStore store(folder.path().string(), ::geteuid());
  const Result<BuilderLock> lock = store.lock({});
  REQUIRE(lock.ok());
  MachineKey machine = key().machine;
  CHECK(!store.timing_cache(machine));
  REQUIRE(store.keep_timing_cache(machine, bytes_of("times")).ok());
  CHECK(text_of(*store.timing_cache(machine)) == "times");
  machine.tensorrt = "10.4.0.1";
  CHECK(!store.timing_cache(machine));
  const std::string path = store.folder() + "/timing.cache";
  write_file(path, read_file(path).substr(1));
  CHECK(!store.timing_cache(key().machine));
}

TEST_CASE(
    "space is checked for disk, memory and GPU, with both numbers, and what is not known is not held against it") {
  const BuildNeeds needs = build_needs(100 << 20, 256);
  CHECK(needs.disk_bytes >= 200u << 20);
  CHECK(needs.device_bytes >= 456u << 20);
  CHECK(check_space(needs, {}, "/state").ok());
  FreeSpace free{needs.disk_bytes, needs.host_bytes, needs.device_bytes};
  CHECK(check_space(needs, free, "/state").ok());
  const auto refused = [&](FreeSpace there, const std::string& said) {
    const Status status = check_space(needs, there, "/state");
    CAPTURE(status.message());
    CHECK(status.code() == Code::kResourceExhausted);
    CHECK(has(status, said));
  };
  refused({needs.disk_bytes - 1, {}, {}}, "on the disk of /state 232 MiB are needed");
  refused({{}, needs.host_bytes - 1, {}}, "in memory 812 MiB are needed");
  refused({{}, {}, 5 << 20}, "in the GPU's memory 456 MiB are needed, 5 MiB are free");
}

TEST_CASE("free space is that of the nearest folder that exists, and of the system's own words") {
  const TemporaryFolder folder;
  const std::string meminfo = (folder.path() / "meminfo").string();
  write_file(meminfo, "MemTotal:  9 kB\nMemAvailable:     2048 kB\n");
  const FreeSpace free = free_space((folder.path() / "not" / "there").string(), meminfo);
  REQUIRE(free.disk_bytes);
  CHECK(*free.disk_bytes > 0);
  CHECK(*free.host_bytes == 2048 * 1024);
  CHECK(!free_space("/", meminfo + ".none").host_bytes);
}

}  // namespace
