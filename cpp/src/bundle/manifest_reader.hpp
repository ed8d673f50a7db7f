// Reads typed values out of a manifest's JSON. The first error sticks; later reads give harmless defaults, so that the
// code that fills the structs needs no check after every key.

#ifndef EDGEBUILD_SRC_BUNDLE_MANIFEST_READER_HPP_
#define EDGEBUILD_SRC_BUNDLE_MANIFEST_READER_HPP_

#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "bundle/json.hpp"
#include "bundle/manifest.hpp"

namespace edgebuild::bundle {

inline constexpr std::size_t kMaxFiles = 10000;
inline constexpr std::size_t kMaxVariants = 64;
inline constexpr std::size_t kMaxInputs = 1024;
inline constexpr std::size_t kMaxOutputs = 1024;
inline constexpr std::size_t kMaxGoldens = 256;
inline constexpr std::size_t kMaxLibraries = 256;
inline constexpr std::size_t kMaxNameBytes = 1024;
inline constexpr std::size_t kMaxPathBytes = 240;
inline constexpr std::size_t kMaxPathSegments = 16;
inline constexpr std::size_t kMaxSegmentBytes = 100;

/// Whether `text` is one segment of a path.
[[nodiscard]] bool is_valid_segment(std::string_view text) noexcept;
/// `path` in lower case, for comparisons without regard to case (paths are ASCII).
[[nodiscard]] std::string folded(std::string_view path);

class ManifestReader {
 public:
  [[nodiscard]] bool ok() const noexcept { return status_.ok(); }
  [[nodiscard]] const Status& status() const noexcept { return status_; }

  /// Records the first error: "PATH: MESSAGE".
  void fail(const json::Value& at, const std::string& message, Code code = Code::kCorrupt);

  /// The member `key`; if it is not there, an error and nothing.
  std::optional<json::Value> required(const json::Value& object, std::string_view key);
  /// The member `key`, if there is one. Not an error otherwise.
  static std::optional<json::Value> member(const json::Value& object, std::string_view key);

  /// Each of these says "expected …, got …" if the value is of another kind.
  bool expect(const json::Value& value, json::Kind kind);
  std::int64_t integer(const json::Value& value, std::int64_t minimum, std::int64_t maximum = json::kMaxInteger);
  double number(const json::Value& value, double minimum);
  std::string string(const json::Value& value);
  /// 1 to 1,024 bytes.
  std::string name(const json::Value& value);
  std::string segment(const json::Value& value);
  std::string path(const json::Value& value);
  std::string sha256(const json::Value& value);
  /// NUMBER.NUMBER, e.g. "2.28".
  std::string dotted_pair(const json::Value& value);
  DType dtype(const json::Value& value);
  std::vector<std::string> strings(const json::Value& value);
  std::map<std::string, std::string> string_map(const json::Value& value);
  void object_or_null(const json::Value& value);
  /// Checks that an array or object has at most `limit` entries.
  void at_most(const json::Value& value, std::size_t limit, std::string_view what);
  /// One of a closed set, e.g. "measured" or "unproved"; gives its index, 0 after an error.
  std::size_t one_of(const json::Value& value, const std::vector<std::string_view>& choices);

  /// A path that must be listed in `files`; remembers that it was referred to.
  std::string reference(const json::Value& value, const Manifest& manifest);
  [[nodiscard]] const std::set<std::string, std::less<>>& referred() const noexcept { return referred_; }

 private:
  Status status_;
  std::set<std::string, std::less<>> referred_;
};

// The parts of a manifest, each in a file of its own. All record errors in `reader`.
void read_files(ManifestReader& reader, const json::Value& files, Manifest& manifest);
void read_loader(ManifestReader& reader, const json::Value& loader, Manifest& manifest);
void read_signature(ManifestReader& reader, const json::Value& signature, Signature& out);
void read_variants(ManifestReader& reader, const json::Value& variants, Manifest& manifest);
void read_preprocessing(ManifestReader& reader, const json::Value& preprocessing, Manifest& manifest);
void read_goldens(ManifestReader& reader, const json::Value& goldens, Manifest& manifest);

}  // namespace edgebuild::bundle

#endif  // EDGEBUILD_SRC_BUNDLE_MANIFEST_READER_HPP_
