#include <doctest/doctest.h>

#include <atomic>
#include <thread>

#include "edgebuild/edgebuild.h"
#include "reference_model.hpp"

namespace {

using namespace edgebuild;           // NOLINT
using namespace edgebuild::testing;  // NOLINT

TEST_CASE("one cancellation stops the runs that have it, of two runners, and no other") {
  RunnerBundle bundle("reference", kSleep);
  describe_sleep(bundle);
  const std::string path = bundle.write();
  Runner first = load_or_die(path);
  Runner second = load_or_die(path);
  const std::vector<float> x{1};
  Cancellation cancellation;
  RunOptions stoppable;
  stoppable.cancellation = &cancellation;
  for (int round = 0; round < 3; ++round) {
    std::atomic<int> cancelled{0};
    std::atomic<bool> other_ended{false};
    std::vector<std::thread> threads;
    for (Runner* runner : {&first, &first, &second}) {
      threads.emplace_back([&, runner] {
        const Value input = view(x, {1});
        Value output;
        cancelled += runner->run({&input, 1}, {&output, 1}, stoppable).code() == Code::kCancelled;
      });
    }
    Cancellation of_another;
    std::thread another([&] {
      const Value input = view(x, {1});
      Value output;
      RunOptions options;
      options.cancellation = &of_another;
      CHECK(first.run({&input, 1}, {&output, 1}, options).code() == Code::kCancelled);
      other_ended = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20 * round));  // before, while and after the runs begin
    cancellation.cancel();
    CHECK(cancellation.cancelled());
    for (std::thread& thread : threads) thread.join();
    CHECK(cancelled == 3);
    CHECK(!other_ended);
    of_another.cancel();
    another.join();

    const Value input = view(x, {1});
    Value output;
    const Status late = first.run({&input, 1}, {&output, 1}, stoppable);
    CHECK(late.code() == Code::kCancelled);
    CHECK(late.message() == "the run was cancelled before it began");
    cancellation.reset();
    CHECK(!cancellation.cancelled());
    RunOptions options = stoppable;
    options.deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(5);
    CHECK(first.run({&input, 1}, {&output, 1}, options).code() == Code::kDeadlineExceeded);  // so it began
  }
}

TEST_CASE("a run that is over no longer hears its cancellation") {
  RunnerBundle bundle("reference", kAffine);
  describe_affine(bundle);
  Runner runner = load_or_die(bundle.write());
  const std::vector<float> x{1, 2, 3};
  const Value input = view(x, {1, 3});
  Value output;
  {
    Cancellation cancellation;
    RunOptions options;
    options.cancellation = &cancellation;
    CHECK(runner.run({&input, 1}, {&output, 1}, options).ok());
    cancellation.cancel();
  }
  CHECK(runner.run({&input, 1}, {&output, 1}).ok());
  CHECK(floats(output) == affine(x));
}

TEST_CASE("the C API cancels") {
  RunnerBundle bundle("reference", kSleep);
  describe_sleep(bundle);
  eb_runner* runner = nullptr;
  REQUIRE(eb_runner_load(bundle.write().c_str(), nullptr, &runner) == EB_OK);
  eb_cancellation* const cancellation = eb_cancellation_create();
  REQUIRE(cancellation != nullptr);
  const float x = 1;
  const std::int64_t shape[1] = {1};
  const eb_value input = eb_value_view(EB_FLOAT32, shape, 1, &x, sizeof(x));
  eb_value output = eb_value_none();
  std::thread stopper([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    eb_cancellation_cancel(cancellation);
  });
  CHECK(eb_runner_run_cancellable(runner, &input, 1, &output, 1, nullptr, cancellation) == EB_CANCELLED);
  stopper.join();
  CHECK(std::string(eb_last_error()) == "the run was cancelled");
  CHECK(eb_runner_run_cancellable(runner, &input, 1, &output, 1, nullptr, cancellation) == EB_CANCELLED);
  eb_cancellation_reset(cancellation);
  eb_run_options options{};
  options.struct_size = sizeof(options);
  options.deadline_ns = 1;
  CHECK(eb_runner_run_cancellable(runner, &input, 1, &output, 1, &options, cancellation) == EB_DEADLINE_EXCEEDED);
  CHECK(output.kind == EB_KIND_NONE);
  eb_cancellation_free(cancellation);
  eb_cancellation_free(nullptr);
  eb_runner_free(runner);
}

}  // namespace
