#include "bundle/archive.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "bundle/bundle.hpp"
#include "support.hpp"

namespace edgebuild::bundle {
namespace {

namespace fs = std::filesystem;
using testing::Files;
using testing::TarEntry;
using testing::TemporaryFolder;

Files sound_files() {
  const Files files = testing::sample_files();
  return testing::with_manifest(files, testing::sample_manifest(files).dump());
}

/// Opens it into a cache of its own; a refusal must leave that empty.
Status open_status(const TemporaryFolder& folder, const std::string& bytes) {
  const fs::path cache = folder.path() / "cache";
  fs::remove_all(cache);
  testing::write_file(folder.path() / "a.edge", bytes);
  Status status = Bundle::open((folder.path() / "a.edge").string(), {cache.string(), ""}).status();
  if (!status.ok()) CHECK((!fs::exists(cache) || fs::is_empty(cache)));
  return status;
}

TEST_CASE("the reader's header is that of an independent writer") {
  std::string deep = "m.x86-64";
  for (int i = 0; i < 5; ++i) deep += "/" + std::string(40, 'd');
  for (const std::string& path :
       {std::string("m.x86-64/manifest.json"), "m/" + std::string(98, 'n'), "m/" + std::string(99, 'n'), deep,
        std::string(100, 't') + "/" + std::string(100, 'n')}) {
    CAPTURE(path);
    TarEntry entry;
    entry.path = path;
    entry.data = "12345";
    entry.mtime = 1700000000;
    const auto header = make_header(path, 5, false, entry.mtime);
    REQUIRE(header);
    CHECK(std::string(header->data(), header->size()) == testing::tar_header(entry));
  }
  CHECK(!make_header(std::string(101, 'n'), 0, false, 0));
  CHECK(!make_header("m/" + std::string(101, 'n'), 0, false, 0));
  CHECK(!make_header("m/x", std::uint64_t{1} << 33, false, 0));
  CHECK(make_header("m/x", (std::uint64_t{1} << 33) - 1, false, 0));
}

TEST_CASE("sound archives open: with a time, a signature, and long paths") {
  const TemporaryFolder folder;
  std::vector<TarEntry> entries = testing::tar_entries(sound_files());
  CHECK(open_status(folder, testing::tar(entries)).message() == "");
  for (TarEntry& entry : entries) entry.mtime = 1700000000;
  CHECK(open_status(folder, testing::tar(entries)).message() == "");
  Files files = testing::sample_files();
  files["licenses/" + std::string(90, 'a') + "/" + std::string(90, 'b') + "/c"] = "text";
  files = testing::with_manifest(files, testing::sample_manifest(files).dump());
  files["manifest.sig"] = "anything";
  CHECK(open_status(folder, testing::tar(testing::tar_entries(files))).message() == "");
}

TEST_CASE("an archive with one flipped bit is refused, wherever the bit is") {
  const TemporaryFolder folder;
  const std::string bytes = testing::tar(testing::tar_entries(sound_files()));
  REQUIRE(open_status(folder, bytes).ok());
  std::mt19937 random(2026);
  // Every byte of headers, padding and end; of the files' own bytes every 131st, as each of those is unpacked and
  // synced.
  std::vector<bool> is_data(bytes.size(), false);
  std::size_t offset = 0;
  for (const TarEntry& entry : testing::tar_entries(sound_files())) {
    const std::size_t begin = offset + 512;
    for (std::size_t i = begin; i < begin + entry.data.size(); ++i) is_data[i] = (i - begin) % 131 != 0;
    offset = begin + (entry.data.size() + 511) / 512 * 512;
  }
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (is_data[i]) continue;
    std::string damaged = bytes;
    damaged[i] = static_cast<char>(damaged[i] ^ (1 << (random() % 8)));
    const Status status = open_status(folder, damaged);
    CAPTURE(i);
    CHECK(status.code() == Code::kCorrupt);
  }
}

TEST_CASE("a truncated or extended archive is refused, wherever it ends") {
  const TemporaryFolder folder;
  const std::string bytes = testing::tar(testing::tar_entries(sound_files()));
  for (std::size_t size = 0; size < bytes.size(); size += 97) {
    CAPTURE(size);
    CHECK(open_status(folder, bytes.substr(0, size)).code() == Code::kCorrupt);
  }
  for (const std::size_t less : {1u, 511u, 512u, 513u, 1024u}) {
    CHECK(open_status(folder, bytes.substr(0, bytes.size() - less)).code() == Code::kCorrupt);
  }
  for (const std::size_t more : {1u, 512u, 1024u, 10240u}) {
    CHECK(open_status(folder, bytes + std::string(more, '\0')).code() == Code::kCorrupt);
  }
}

TEST_CASE("archives that tar would unpack, but that the format forbids, are refused") {
  using Entries = std::vector<TarEntry>;
  const std::vector<std::pair<const char*, std::function<void(Entries&)>>> changes = {
      {"unsorted", [](Entries& e) { std::swap(e[0], e[1]); }},
      {"twice", [](Entries& e) { e.insert(e.begin(), e[0]); }},
      {"missing", [](Entries& e) { e.erase(e.begin() + 1); }},
      {"none", [](Entries& e) { e.clear(); }},
      {"unlisted",
       [](Entries& e) {
         e.push_back({"m.x86-64/zzz", "x"});
       }},
      {"another top folder",
       [](Entries& e) {
         for (TarEntry& x : e) x.path = "n" + x.path;
       }},
      {"two top folders", [](Entries& e) { e.back().path = "n" + e.back().path; }},
      {"no top folder",
       [](Entries& e) {
         for (TarEntry& x : e) x.path = x.path.substr(9);
       }},
      {"parent", [](Entries& e) { e[0].path = "m.x86-64/../x"; }},
      {"absolute", [](Entries& e) { e[0].path = "/etc/x"; }},
      {"dot", [](Entries& e) { e[0].path = "m.x86-64/./bin/edgerun"; }},
      {"symbolic link",
       [](Entries& e) {
         e[1].type = '2';
         e[1].link = "/etc/passwd";
         e[1].data = "";
       }},
      {"hard link",
       [](Entries& e) {
         e[1].type = '1';
         e[1].link = e[0].path;
         e[1].data = "";
       }},
      {"device", [](Entries& e) { e[1].type = '3'; }},
      {"folder entry",
       [](Entries& e) {
         e.insert(e.begin(), {"m.x86-64/bin/", "", "0000755", '5'});
       }},
      {"pax",
       [](Entries& e) {
         e.insert(e.begin(), {"m.x86-64/a", "30 mtime=1350244992.023960108\n", "0000644", 'x'});
       }},
      {"GNU long name",
       [](Entries& e) {
         e.insert(e.begin(), {"m.x86-64/a", "m.x86-64/b", "0000644", 'L'});
       }},
      {"old type", [](Entries& e) { e[0].type = '\0'; }},
      {"setuid", [](Entries& e) { e[0].mode = "0004755"; }},
      {"executable model",
       [](Entries& e) {
         for (TarEntry& x : e)
           if (x.path == "m.x86-64/model/m.onnx") x.mode = "0000755";
       }},
      {"runner not executable", [](Entries& e) { e[0].mode = "0000644"; }},
      {"executable manifest",
       [](Entries& e) {
         for (TarEntry& x : e)
           if (x.path == "m.x86-64/manifest.json") x.mode = "0000755";
       }},
      {"differing times", [](Entries& e) { e[2].mtime = 1; }},
      {"link name on a file", [](Entries& e) { e[0].link = "x"; }},
      {"longer than listed", [](Entries& e) { e[0].data += "x"; }},
      {"other bytes", [](Entries& e) { e[0].data[0] = 'x'; }},
  };
  const TemporaryFolder folder;
  for (const auto& [what, change] : changes) {
    CAPTURE(what);
    Entries entries = testing::tar_entries(sound_files());
    change(entries);
    CHECK(open_status(folder, testing::tar(entries)).code() == Code::kCorrupt);
  }
}

TEST_CASE("a size beyond the archive is refused without reading or allocating it") {
  const TemporaryFolder folder;
  std::string bytes = testing::tar(testing::tar_entries(sound_files()));
  const auto header = make_header("m.x86-64/bin/edgerun", (std::uint64_t{1} << 33) - 1, true, 0);
  REQUIRE(header);
  bytes.replace(0, header->size(), header->data(), header->size());
  CHECK(open_status(folder, bytes).code() == Code::kCorrupt);
}

}  // namespace
}  // namespace edgebuild::bundle
