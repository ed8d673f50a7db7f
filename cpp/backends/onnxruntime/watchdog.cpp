#include "onnxruntime/watchdog.hpp"

namespace edgebuild::onnxruntime {

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Watchdog::watch(Entry& entry) {
  const std::lock_guard lock(mutex_);
  if (!thread_.joinable()) thread_ = std::thread([this] { loop(); });
  entry.previous = nullptr;
  entry.next = first_;
  if (first_ != nullptr) first_->previous = &entry;
  first_ = &entry;
  entry.watched = true;
  changed_.notify_one();
}

void Watchdog::forget(Entry& entry) {
  const std::lock_guard lock(mutex_);  // The callback runs under this lock.
  if (entry.watched) unlink(entry);
}

void Watchdog::unlink(Entry& entry) noexcept {
  (entry.previous != nullptr ? entry.previous->next : first_) = entry.next;
  if (entry.next != nullptr) entry.next->previous = entry.previous;
  entry.watched = false;
}

void Watchdog::loop() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    const auto now = std::chrono::steady_clock::now();
    auto earliest = std::chrono::steady_clock::time_point::max();
    for (Entry* entry = first_; entry != nullptr;) {
      Entry* const next = entry->next;
      if (entry->deadline <= now) {
        unlink(*entry);
        entry->callback(entry->argument);
      } else if (entry->deadline < earliest) {
        earliest = entry->deadline;
      }
      entry = next;
    }
    if (earliest == std::chrono::steady_clock::time_point::max()) {
      changed_.wait(lock);
    } else {
      changed_.wait_until(lock, earliest);
    }
  }
}

}  // namespace edgebuild::onnxruntime
