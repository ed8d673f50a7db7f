#include "runner/tuning.hpp"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <functional>

#include "bundle/sha256.hpp"
#include "support.hpp"

namespace {

using edgebuild::Code;
using edgebuild::Result;
using edgebuild::Status;
using edgebuild::testing::read_file;
using edgebuild::testing::TemporaryFolder;
using edgebuild::testing::write_file;
using namespace edgebuild::runner;  // NOLINT

TuningKey key_of_here() {
  TuningKey key;
  key.bundle_id = std::string(64, 'a');
  key.edgebuild = "1.2.3";
  key.cpu_model = "Cortex \"A76\"\t0x41:0xd0b";
  key.cpu_features = std::string(64, 'f');
  key.threads = 0;
  key.processors = 4;
  return key;
}

Tuning sample() { return {key_of_here(), {{"b", "1.31.1", true, 0.25, 0.125, 0.5}, {"a", "", false, 0, 0, 0}}}; }

/// `body` with the hash that belongs to it, so that only its meaning can be wrong.
std::string sealed(const std::string& body) {
  return body + ",\"sha256\":\"" + edgebuild::bundle::sha256_hex(body.data(), body.size()) + "\"}\n";
}

std::string body_of(const Tuning& tuning) {
  const std::string text = tuning_text(tuning);
  return text.substr(0, text.size() - std::string(",\"sha256\":\"\"}\n").size() - 64);
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

TEST_CASE("a tuning reads back as it was written") {
  const Tuning tuning = sample();
  CHECK(sealed(body_of(tuning)) == tuning_text(tuning));
  const Result<Tuning> read = parse_tuning(tuning_text(tuning));
  REQUIRE_MESSAGE(read.ok(), read.status().message());
  CHECK(!why_stale(read.value().key, tuning.key));
  REQUIRE(read.value().variants.size() == 2);
  CHECK(read.value().variants[0].name == "b");
  CHECK(read.value().variants[0].engine_version == "1.31.1");
  CHECK(read.value().variants[0].median_s == 0.25);
  CHECK(read.value().variants[0].p25_s == 0.125);
  CHECK(read.value().variants[0].p75_s == 0.5);
  CHECK(read.value().variants[0].agrees);
  CHECK(!read.value().variants[1].agrees);
  CHECK(tuning_text(read.value()) == tuning_text(tuning));
}

TEST_CASE("no flipped bit and no missing byte of a tuning goes unnoticed") {
  const std::string text = tuning_text(sample());
  for (std::size_t bit = 0; bit < 8 * text.size(); ++bit) {
    std::string bad = text;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    CHECK_FALSE(parse_tuning(bad).ok());
  }
  for (std::size_t size = 0; size < text.size(); ++size) CHECK_FALSE(parse_tuning(text.substr(0, size)).ok());
  CHECK_FALSE(parse_tuning(text + "\n").ok());
}

TEST_CASE("a tuning with a right hash and wrong content is refused, naming what is wrong") {
  const std::string body = body_of(sample());
  struct Case {
    std::string body;
    std::string message;
  };
  const std::vector<Case> cases = {
      {replaced(body, "edgebuild.tuning/1", "edgebuild.tuning/2"), "expected schema edgebuild.tuning/1"},
      {replaced(body, "\"processors\":4", "\"processors\":-4"), "processors: expected an integer from 0"},
      {replaced(body, "\"processors\":4", "\"processors\":\"4\""), "processors: expected an integer, got a string"},
      {replaced(body, "\"threads\":0", "\"threads\":0.5"), "threads: expected an integer"},
      {replaced(body, "\"threads\":0", "\"thread\":0"), "the key 'threads' is missing"},
      {replaced(body, "\"threads\":0", "\"threads\":0,\"speed\":1"), "expected 9 members, got 10"},
      {replaced(body, "\"threads\":0", "\"threads\":0,\"threads\":1"), "threads"},
      {replaced(body, "\"median_s\":0.25", "\"median_s\":-1"), "median_s: expected a number of at least 0"},
      {replaced(body, "\"median_s\":0.25", "\"median_s\":NaN"), "not valid JSON"},
      {replaced(body, "\"agrees\":true", "\"agrees\":1"), "agrees: expected a bool"},
      {replaced(body, "\"agrees\":true", "\"agrees\":true,\"x\":1"), "expected 6 members, got 7"},
      {replaced(body, "\"name\":\"b\"", "\"name\":null"), "name: expected a string"},
      {"{\"schema\":\"edgebuild.tuning/1\"", "the key 'bundle_id' is missing"},
      {"[1", ""},
      {"", ""},
  };
  for (const Case& one : cases) {
    const Result<Tuning> read = parse_tuning(sealed(one.body));
    REQUIRE_FALSE(read.ok());
    CHECK_MESSAGE(read.status().message().find(one.message) != std::string::npos, read.status().message());
  }
  Tuning many = sample();
  many.variants.assign(65, many.variants[0]);
  CHECK_FALSE(parse_tuning(tuning_text(many)).ok());
}

TEST_CASE("a tuning holds for its bundle, version, CPU and thread count, and for nothing else") {
  struct Case {
    std::function<void(TuningKey&)> change;
    std::string reason;
  };
  const std::vector<Case> cases = {
      {[](TuningKey& key) { key.bundle_id = std::string(64, 'b'); },
       "with the bundle 'aaaaaaaaaaaaaaaa', this is 'bbb"},
      {[](TuningKey& key) { key.edgebuild = "1.2.4"; }, "by edgebuild '1.2.3', this is '1.2.4'"},
      {[](TuningKey& key) { key.cpu_model = "Cortex A53"; },
       "on the CPU 'Cortex \"A76\"\\x090x41:0xd0b', this is 'Cortex A53'"},
      {[](TuningKey& key) { key.cpu_features = std::string(64, 'e'); }, "other features"},
      {[](TuningKey& key) { key.threads = 2; }, "with the variants' own threads, not with 2 threads"},
      {[](TuningKey& key) { key.processors = 2; }, "with 4 processors, there are 2"},
  };
  for (const Case& one : cases) {
    TuningKey other = key_of_here();
    one.change(other);
    const auto stale = why_stale(key_of_here(), other);
    REQUIRE(stale.has_value());
    CHECK_MESSAGE(stale->find(one.reason) != std::string::npos, *stale);
    CHECK(why_stale(other, key_of_here()).has_value());
  }
  CHECK(!why_stale(key_of_here(), key_of_here()));
  TuningKey asked = key_of_here();
  asked.threads = 2;
  TuningKey fewer = asked;
  fewer.processors = 3;
  CHECK(!why_stale(asked, fewer));  // two threads are two threads on three processors and on four
}

TEST_CASE("a tuning is kept and found again, in a folder that is made for it, and nothing else lies there") {
  const TemporaryFolder folder;
  const std::string state = (folder.path() / "state/edgebuild/id").string();
  const TuningKey here = key_of_here();
  CHECK(read_tuning(state, here, ::geteuid()).status().code() == Code::kNotFound);
  for (int round = 0; round < 2; ++round) {
    const Result<std::string> file = write_tuning(state, sample());
    REQUIRE_MESSAGE(file.ok(), file.status().message());
    CHECK(file.value() == state + "/tuning-default.json");
    CHECK(read_file(file.value()) == tuning_text(sample()));
  }
  CHECK(read_tuning(state, here, ::geteuid()).ok());
  Tuning other = sample();
  other.key.threads = 3;
  REQUIRE(write_tuning(state, other).ok());
  CHECK(read_tuning(state, here, ::geteuid()).ok());  // one thread count does not undo another
  CHECK(read_tuning(state, other.key, ::geteuid()).ok());
  std::size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(state)) files += entry.is_regular_file();
  CHECK(files == 2);
}

TEST_CASE("what can't be a state folder is said") {
  const TemporaryFolder folder;
  write_file(folder.path() / "file", "");
  const std::string file = (folder.path() / "file").string();
  CHECK(write_tuning(file, sample()).status().code() == Code::kUsage);
  CHECK(write_tuning(file + "/below", sample()).status().code() == Code::kUsage);
  CHECK_FALSE(read_tuning(file, key_of_here(), ::geteuid()).ok());
  std::filesystem::create_directory(folder.path() / "tuning-default.json");
  CHECK(write_tuning(folder.path().string(), sample()).status().code() == Code::kUsage);
}

TEST_CASE("a tuning file is only read if nobody else can have written it") {
  const TemporaryFolder folder;
  const std::string state = folder.path().string();
  const std::string file = state + "/tuning-default.json";
  const uid_t me = ::geteuid();
  const auto reason = [&](uid_t user) {
    const Result<Tuning> read = read_tuning(state, key_of_here(), user);
    return read.ok() ? std::string("read") : read.status().message();
  };
  REQUIRE(write_tuning(state, sample()).ok());
  CHECK(reason(me) == "read");
  if (me == 0) {
    REQUIRE(::chown(file.c_str(), 4711, 4711) == 0);
    CHECK(reason(0) == "it belongs to user 4711, not to 0");
    CHECK(reason(4711) == "read");
    REQUIRE(::chown(file.c_str(), 0, 0) == 0);
    CHECK(reason(4711) == "read");  // what root kept holds for all
  } else {
    CHECK(reason(me + 1).find("it belongs to user " + std::to_string(me)) == 0);
    REQUIRE(::chmod(file.c_str(), 0) == 0);
    CHECK(reason(me) == "it can't be read: Permission denied");
  }
  REQUIRE(::chmod(file.c_str(), 0664) == 0);
  CHECK(reason(me) == "others than its owner can write it");
  REQUIRE(::chmod(file.c_str(), 0646) == 0);
  CHECK(reason(me) == "others than its owner can write it");

  std::filesystem::rename(file, state + "/real.json");
  std::filesystem::create_symlink("real.json", file);
  CHECK(reason(me) == "it is a link");
  std::filesystem::remove(file);
  REQUIRE(::mkfifo(file.c_str(), 0600) == 0);
  CHECK(reason(me) == "it is no regular file");
  std::filesystem::remove(file);
  std::filesystem::create_directory(file);
  CHECK(reason(me) == "it is no regular file");
  std::filesystem::remove(file);
  write_file(file, std::string(kMaxTuningBytes + 1, ' '));
  CHECK(reason(me) == "it has 65537 bytes, at most 65536 are read");
}

TEST_CASE("what was tuned changes places, what was not keeps its own") {
  const auto order = [](const std::vector<std::string>& names, const std::vector<std::string>& tuned) {
    Tuning tuning;
    for (const std::string& name : tuned) tuning.variants.push_back({name, "", true, 1, 1, 1});
    std::string text;
    for (const std::size_t index : tuned_order(names, tuning)) text += names[index];
    return text;
  };
  CHECK(order({"a", "b", "c"}, {}) == "abc");
  CHECK(order({"a", "b", "c"}, {"c", "b", "a"}) == "cba");
  CHECK(order({"a", "b", "c"}, {"c", "a"}) == "cba");
  CHECK(order({"a", "b", "c", "d"}, {"d", "b"}) == "adcb");
  CHECK(order({"a", "b", "c"}, {"x", "c", "a"}) == "cba");
  CHECK(order({"a", "b", "c"}, {"b", "b", "a"}) == "bac");
}

TEST_CASE("the default state folder follows the XDG variables, absolute paths only") {
  const auto saved = [](const char* name) {
    return std::string(std::getenv(name) != nullptr ? std::getenv(name) : "");
  };
  const std::string state = saved("XDG_STATE_HOME");
  const std::string home = saved("HOME");
  ::setenv("HOME", "/home/u", 1);
  ::setenv("XDG_STATE_HOME", "/state", 1);
  CHECK(default_state_dir("id") == "/state/edgebuild/id");
  ::setenv("XDG_STATE_HOME", "relative", 1);
  CHECK(default_state_dir("id") == "/home/u/.local/state/edgebuild/id");
  ::unsetenv("XDG_STATE_HOME");
  ::unsetenv("HOME");
  CHECK(default_state_dir("id").empty());
  OrderRequest request{"id", process_arch(), {"a", "b"}, "", 0, true};
  CHECK(variant_order(request).why.find("there is no state folder") != std::string::npos);
  ::setenv("HOME", home.c_str(), 1);
  if (!state.empty()) ::setenv("XDG_STATE_HOME", state.c_str(), 1);
}

TEST_CASE("without a tuning the order is the target's, and the reason is said") {
  const TemporaryFolder folder;
  OrderRequest request{"id", process_arch(), {"a", "b"}, folder.path().string(), 2, true};
  CHECK(variant_order(request).why.find("not tuned on this machine for 2 threads; `edgerun tune`") !=
        std::string::npos);
  CHECK(variant_order(request).indices == std::vector<std::size_t>{0, 1});
  request.arch = "abacus";
  CHECK(variant_order(request).why == "the target's: this machine can't run the bundle");
  request.tuning = false;
  CHECK(variant_order(request).why == "the target's: tuning is switched off");
  request.names = {"a"};
  CHECK(variant_order(request).why == "there is one variant");
}

TEST_CASE("the thread count of a load is what was asked for by number") {
  CHECK(asked_threads({}) == 0);
  CHECK(asked_threads({{"intra_op_threads", "0"}}) == 0);
  CHECK(asked_threads({{"intra_op_threads", "4"}, {"inter_op_threads", "9"}}) == 4);
  CHECK(asked_threads({{"intra_op_threads", "many"}}) == 0);
}

}  // namespace
