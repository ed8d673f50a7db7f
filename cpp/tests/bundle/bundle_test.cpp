#include "bundle/bundle.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "bundle/sha256.hpp"
#include "support.hpp"

namespace edgebuild::bundle {
namespace {

namespace fs = std::filesystem;
using testing::Files;
using testing::TemporaryFolder;

Files sound() {
  const Files files = testing::sample_files();
  return testing::with_manifest(files, testing::sample_manifest(files).dump(2) + "\n");
}

Code open_code(const fs::path& path, const fs::path& cache) {
  return Bundle::open(path.string(), {cache.string(), ""}).status().code();
}

std::size_t count_entries(const fs::path& folder) {
  std::error_code error;
  std::size_t count = 0;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) ++count;
  return count;
}

TEST_CASE("both forms open, and hand out checked bytes") {
  const TemporaryFolder folder;
  testing::write_directory(folder.path() / "d", sound());
  testing::write_file(folder.path() / "a.edge", testing::tar(testing::tar_entries(sound())));
  for (const char* form : {"d", "a.edge"}) {
    CAPTURE(form);
    const Result<Bundle> result =
        Bundle::open((folder.path() / form).string(), {(folder.path() / "cache").string(), ""});
    REQUIRE_MESSAGE(result.ok(), result.status().message());
    const Bundle& bundle = result.value();
    CHECK(bundle.id() + "\n" == sound().at("manifest.sha256"));
    CHECK(testing::read_file(bundle.root() / "model/m.onnx.data") == sound().at("model/m.onnx.data"));
    const std::uint64_t hashed = bundle.hashed_bytes();
    const auto mapped = bundle.map("model/m.onnx.data");
    REQUIRE(mapped.ok());
    REQUIRE(mapped.value()->size() == 3000);
    CHECK(std::memcmp(mapped.value()->data(), sound().at("model/m.onnx.data").data(), 3000) == 0);
    CHECK(bundle.hashed_bytes() == hashed + 3000);
    const auto empty = bundle.map("licenses/empty.txt");
    REQUIRE(empty.ok());
    CHECK(empty.value()->data() == nullptr);
    CHECK(bundle.map("model/none").status().code() == Code::kNotFound);
    CHECK(bundle.map("manifest.json").status().code() == Code::kNotFound);
    const auto file = bundle.open_file("bin/edgerun");
    REQUIRE(file.ok());
    char text[2] = {};
    CHECK(::pread(file.value().get(), text, 2, 0) == 2);
    CHECK(std::string(text, 2) == "#!");
    std::uint64_t last = 0;
    std::uint64_t total = 0;
    CHECK(bundle
              .verify([&](const std::string&, std::uint64_t done, std::uint64_t all) {
                CHECK(done >= last);
                last = done;
                total = all;
              })
              .ok());
    CHECK(last == total);
  }
}

TEST_CASE("unpacked files have the manifest's modes, whatever the umask") {
  const TemporaryFolder folder;
  testing::write_file(folder.path() / "a.edge", testing::tar(testing::tar_entries(sound())));
  const mode_t before = ::umask(0077);
  const auto bundle = Bundle::open((folder.path() / "a.edge").string(), {(folder.path() / "cache").string(), ""});
  ::umask(before);
  REQUIRE(bundle.ok());
  struct stat status = {};
  REQUIRE(::stat((bundle.value().root() / "bin/edgerun").c_str(), &status) == 0);
  CHECK((status.st_mode & 07777) == 0755);
  REQUIRE(::stat((bundle.value().root() / "model/m.onnx").c_str(), &status) == 0);
  CHECK((status.st_mode & 07777) == 0644);
  CHECK(count_entries(folder.path() / "cache") == 1);
}

TEST_CASE("what is not a bundle is told apart from what does not exist") {
  const TemporaryFolder folder;
  const fs::path cache = folder.path() / "cache";
  CHECK(open_code(folder.path() / "none", cache) == Code::kNotFound);
  fs::create_directory(folder.path() / "empty");
  CHECK(open_code(folder.path() / "empty", cache) == Code::kCorrupt);
  testing::write_file(folder.path() / "zero.edge", "");
  CHECK(open_code(folder.path() / "zero.edge", cache) == Code::kCorrupt);
  testing::write_file(folder.path() / "text.edge", std::string(5000, 'x'));
  CHECK(open_code(folder.path() / "text.edge", cache) == Code::kCorrupt);
  REQUIRE(::mkfifo((folder.path() / "fifo").c_str(), 0600) == 0);
  CHECK(open_code(folder.path() / "fifo", cache) == Code::kCorrupt);
  CHECK(!fs::exists(cache));
}

TEST_CASE("a directory with anything but the listed files is refused") {
  const TemporaryFolder folder;
  const fs::path root = folder.path() / "d";
  const auto fresh = [&] {
    fs::remove_all(root);
    testing::write_directory(root, sound());
  };
  const std::vector<std::pair<const char*, std::function<void()>>> damages = {
      {"extra file", [&] { testing::write_file(root / "model/extra", "x"); }},
      {"extra file on top", [&] { testing::write_file(root / ".hidden", "x"); }},
      {"empty folder", [&] { fs::create_directory(root / "plugins"); }},
      {"missing file", [&] { fs::remove(root / "licenses/empty.txt"); }},
      {"missing hash", [&] { fs::remove(root / "manifest.sha256"); }},
      {"missing manifest", [&] { fs::remove(root / "manifest.json"); }},
      {"longer file", [&] { testing::write_file(root / "licenses/empty.txt", "x"); }},
      {"link to the same bytes",
       [&] {
         fs::rename(root / "model/m.onnx", folder.path() / "m.onnx");
         fs::create_symlink(folder.path() / "m.onnx", root / "model/m.onnx");
       }},
      {"linked folder",
       [&] {
         fs::remove_all(folder.path() / "golden");
         fs::rename(root / "golden", folder.path() / "golden");
         fs::create_directory_symlink(folder.path() / "golden", root / "golden");
       }},
      {"linked manifest",
       [&] {
         fs::rename(root / "manifest.json", folder.path() / "manifest.json");
         fs::create_symlink(folder.path() / "manifest.json", root / "manifest.json");
       }},
      {"folder in a file's place",
       [&] {
         fs::remove(root / "licenses/empty.txt");
         fs::create_directory(root / "licenses/empty.txt");
       }},
      {"fifo in a file's place",
       [&] {
         fs::remove(root / "licenses/empty.txt");
         REQUIRE(::mkfifo((root / "licenses/empty.txt").c_str(), 0600) == 0);
       }},
      {"hash without newline",
       [&] { testing::write_file(root / "manifest.sha256", sound().at("manifest.sha256").substr(0, 64)); }},
      {"hash with more", [&] { testing::write_file(root / "manifest.sha256", sound().at("manifest.sha256") + "\n"); }},
      {"large signature", [&] { testing::write_file(root / "manifest.sig", std::string(65537, 's')); }},
      {"changed manifest", [&] { testing::write_file(root / "manifest.json", sound().at("manifest.json") + " "); }},
  };
  for (const auto& [what, damage] : damages) {
    CAPTURE(what);
    fresh();
    damage();
    const Result<Bundle> bundle = Bundle::open(root.string());
    CHECK(bundle.status().code() == Code::kCorrupt);
    CHECK(bundle.status().message().find('\n') == std::string::npos);
  }
  fresh();
  testing::write_file(root / "manifest.sig", std::string(65536, 's'));
  CHECK(Bundle::open(root.string()).ok());
}

TEST_CASE("a changed file is refused when it is used, and by verify") {
  const TemporaryFolder folder;
  testing::write_directory(folder.path(), sound());
  const Result<Bundle> bundle = Bundle::open(folder.path().string());
  REQUIRE(bundle.ok());
  std::string data = sound().at("model/m.onnx");
  data[500] ^= 4;
  testing::write_file(folder.path() / "model/m.onnx", data);
  CHECK(bundle.value().map("model/m.onnx").status().code() == Code::kCorrupt);
  CHECK(bundle.value().open_file("model/m.onnx").status().code() == Code::kCorrupt);
  CHECK(bundle.value().map("model/m.onnx.data").ok());
  const Status status = bundle.value().verify();
  CHECK(status.code() == Code::kCorrupt);
  CHECK(status.message().find("model/m.onnx") != std::string::npos);
  fs::resize_file(folder.path() / "model/m.onnx", 100);
  CHECK(bundle.value().map("model/m.onnx").status().code() == Code::kCorrupt);
  fs::remove(folder.path() / "model/m.onnx");
  fs::create_symlink(folder.path() / "model/m.onnx.data", folder.path() / "model/m.onnx");
  CHECK(bundle.value().map("model/m.onnx").status().code() == Code::kCorrupt);
}

TEST_CASE("the cache's folder is reused if sound, replaced if not, and verify still looks at the archive") {
  const TemporaryFolder folder;
  const fs::path cache = folder.path() / "cache";
  const fs::path path = folder.path() / "a.edge";
  const std::string bytes = testing::tar(testing::tar_entries(sound()));
  testing::write_file(path, bytes);
  const OpenOptions options{cache.string(), ""};
  fs::path root;
  {
    const Result<Bundle> first = Bundle::open(path.string(), options);
    REQUIRE(first.ok());
    CHECK(first.value().hashed_bytes() > 0);
    root = first.value().root();
  }
  {
    const Result<Bundle> again = Bundle::open(path.string(), options);
    REQUIRE(again.ok());
    CHECK(again.value().hashed_bytes() == 0);
    CHECK(again.value().verify().ok());
  }
  testing::write_file(root / "extra", "x");
  fs::create_directory(cache / ".unpack-dead00");  // what a killed process left
  const Result<Bundle> repaired = Bundle::open(path.string(), options);
  REQUIRE_MESSAGE(repaired.ok(), repaired.status().message());
  CHECK(!fs::exists(root / "extra"));
  CHECK(repaired.value().verify().ok());
  CHECK(count_entries(cache) == 1);

  std::string damaged = bytes;
  damaged[bytes.find("mmmmmmmm") + 40] ^= 1;
  testing::write_file(path, damaged);
  const Result<Bundle> cached = Bundle::open(path.string(), options);
  REQUIRE(cached.ok());  // what runs are the unpacked bytes
  CHECK(cached.value().verify().code() == Code::kCorrupt);
  CHECK(open_code(path, folder.path() / "other-cache") == Code::kCorrupt);
  CHECK(count_entries(folder.path() / "other-cache") == 0);
}

TEST_CASE("many threads may open one archive into one cache") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "a.edge";
  testing::write_file(path, testing::tar(testing::tar_entries(sound())));
  std::vector<std::thread> threads;
  std::vector<Status> statuses(8);
  for (Status& status : statuses) {
    threads.emplace_back([&] {
      const Result<Bundle> bundle = Bundle::open(path.string(), {(folder.path() / "cache").string(), ""});
      status = bundle.ok() ? bundle.value().verify() : bundle.status();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Status& status : statuses) CHECK_MESSAGE(status.ok(), status.message());
  CHECK(count_entries(folder.path() / "cache") == 1);
}

TEST_CASE("a full disk is out of resources, and leaves nothing behind") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "a.edge";
  const fs::path cache = folder.path() / "cache";
  testing::write_file(path, testing::tar(testing::tar_entries(sound())));
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {  // a limit on file sizes stands for the full disk: the third kilobyte of the weights fails
    const struct rlimit limit = {2000, 2000};
    ::signal(SIGXFSZ, SIG_IGN);
    ::setrlimit(RLIMIT_FSIZE, &limit);
    ::_exit(static_cast<int>(open_code(path, cache)));
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == static_cast<int>(Code::kResourceExhausted));
  CHECK(count_entries(cache) == 0);
}

TEST_CASE("an external engine is found by name and hash in the runtime path") {
  const TemporaryFolder folder;
  const std::string first = (folder.path() / "1").string();
  const std::string second = (folder.path() / "2").string();
  testing::write_directory(folder.path() / "d", sound());
  fs::create_directory(first);
  fs::create_directory(second);
  const auto bundle = Bundle::open((folder.path() / "d").string(), {"", first + "::/does/not/exist:" + second});
  REQUIRE(bundle.ok());
  Engine engine = *bundle.value().manifest().variants[0].engine;
  engine.external_file.sha256 = sha256_hex("good", 4);
  CHECK(bundle.value().open_external(engine).status().code() == Code::kNotFound);
  testing::write_file(first + "/libonnxruntime.so.1", "evil");
  CHECK(bundle.value().open_external(engine).status().code() == Code::kIncompatible);
  testing::write_file(second + "/libonnxruntime.so.1", "good");
  const auto found = bundle.value().open_external(engine);
  REQUIRE(found.ok());
  char text[4] = {};
  CHECK(::pread(found.value().get(), text, 4, 0) == 4);
  CHECK(std::string(text, 4) == "good");
}

TEST_CASE("another major is incompatible in both forms") {
  const TemporaryFolder folder;
  const Files files = testing::with_manifest({}, R"({"format": {"major": 2, "minor": 0}})");
  testing::write_directory(folder.path() / "d", files);
  testing::write_file(folder.path() / "a.edge", testing::tar(testing::tar_entries(files)));
  CHECK(open_code(folder.path() / "d", folder.path() / "cache") == Code::kIncompatible);
  CHECK(open_code(folder.path() / "a.edge", folder.path() / "cache") == Code::kIncompatible);
}

}  // namespace
}  // namespace edgebuild::bundle
