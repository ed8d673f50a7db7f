// One thread that calls back when a deadline passes. It starts with the first deadline, so that runs without one cost
// nothing.

#ifndef EDGEBUILD_BACKENDS_ONNXRUNTIME_WATCHDOG_HPP_
#define EDGEBUILD_BACKENDS_ONNXRUNTIME_WATCHDOG_HPP_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

namespace edgebuild::onnxruntime {

class Watchdog {
 public:
  using Callback = void (*)(void* argument);

  /// A deadline under watch. Owned by the caller, who may reuse it; it must stay where it is while it is watched.
  struct Entry {
    std::chrono::steady_clock::time_point deadline;
    Callback callback = nullptr;
    void* argument = nullptr;
    Entry* previous = nullptr;
    Entry* next = nullptr;
    bool watched = false;
  };

  Watchdog() = default;
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  ~Watchdog();

  /// Starts to watch. The callback comes at most once, from the watchdog's thread.
  void watch(Entry& entry);
  /// Stops to watch. When this returns, the callback is over or will never come.
  void forget(Entry& entry);

 private:
  void loop();
  void unlink(Entry& entry) noexcept;

  std::mutex mutex_;
  std::condition_variable changed_;
  Entry* first_ = nullptr;  // Unordered: there are as many as there are concurrent runs with a deadline.
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace edgebuild::onnxruntime

#endif  // EDGEBUILD_BACKENDS_ONNXRUNTIME_WATCHDOG_HPP_
