#include "device_timer.hpp"

#include <algorithm>
#include <chrono>
#include <numeric>

#include "cuda/driver_types.hpp"
#include "cuda/launch.hpp"
#include "jit/jit.hpp"

namespace fathom {

double Timing::mean() const {
  return us.empty() ? 0 : std::accumulate(us.begin(), us.end(), 0.0) / static_cast<double>(us.size());
}

double Timing::median() const {
  if (us.empty()) return 0;
  std::vector<double> sorted = us;
  std::sort(sorted.begin(), sorted.end());
  const std::size_t half = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

double Timing::least() const { return us.empty() ? 0 : *std::min_element(us.begin(), us.end()); }

namespace detail {

Timing timing_of(const std::vector<cuda::Activity>& activities, int runs) {
  Timing timing{.method = "cupti", .us = {}, .kernels = {}, .kernel_us = {}, .note = {}};
  std::vector<std::vector<std::string>> kernels;
  std::vector<std::vector<double>> times;
  bool flushing = false;
  for (const cuda::Activity& activity : activities) {
    const bool flush = activity.memset && (activity.memset_value & 0xff) == kFlushValue &&
                       activity.memset_bytes >= static_cast<std::uint64_t>(kLeastFlushBytes);
    if (flush) {
      if (!flushing) {  // a driver may cut one memset into several
        kernels.emplace_back();
        times.emplace_back();
      }
      flushing = true;
      continue;
    }
    flushing = false;
    if (times.empty()) continue;  // of before the first run
    times.back().push_back(static_cast<double>(activity.end_ns - activity.start_ns) * 1e-3);
    kernels.back().push_back(activity.memset ? "memset" : activity.name);
  }
  const bool all_ran = std::none_of(kernels.begin(), kernels.end(), [](const auto& k) { return k.empty(); });
  if (static_cast<int>(times.size()) != runs || !all_ran) {
    throw CudaError("CUPTI has recorded " + std::to_string(times.size()) + " of " + std::to_string(runs) +
                        " runs" + (all_ran ? "" : ", some without a kernel"),
                    cuda::kErrorInvalidValue);
  }
  for (const auto& run : times) timing.us.push_back(std::accumulate(run.begin(), run.end(), 0.0));
  timing.kernels = kernels.front();
  for (const auto& other : kernels) {
    if (other != timing.kernels) timing.note = "the runs had different kernels";
  }
  if (!timing.note.empty()) return timing;
  timing.kernel_us.resize(timing.kernels.size());
  for (const auto& run : times) {
    for (std::size_t i = 0; i < run.size(); ++i) timing.kernel_us[i] += run[i] / runs;
  }
  return timing;
}

void name_kernels(std::vector<std::string>& kernels, const std::vector<std::string>& launched) {
  std::vector<std::string*> ours;
  for (std::string& kernel : kernels) {
    if (kernel == jit::kEntryPoint) ours.push_back(&kernel);
  }
  if (ours.size() != launched.size()) return;
  for (std::size_t i = 0; i < ours.size(); ++i) *ours[i] = launched[i];
}

}  // namespace detail

DeviceTimer::DeviceTimer(const Context& context, std::shared_ptr<const cuda::Cupti> cupti, std::string reason,
                         DeviceTimerOptions options)
    : context_(context),
      options_(options),
      flushed_(context, std::max(options.flush_bytes, detail::kLeastFlushBytes)),
      reason_(std::move(reason)) {
  if (cupti == nullptr) return;
  try {
    trace_ = std::make_unique<cuda::ActivityTrace>(std::move(cupti));
  } catch (const CudaError& error) {
    reason_ = error.what();
  }
}

void DeviceTimer::flush() const {
  cuda::fill(context_, flushed_.data(), detail::kFlushValue, flushed_.size());
}

Timing DeviceTimer::time(const std::function<void(std::int64_t)>& run) {
  std::vector<std::string> launched;
  for (int i = 0; i < std::max(options_.warm_up, 1); ++i) {
    const cuda::LaunchNames names;
    run(i);
    launched = names.names();
  }
  cuda::synchronize(context_);
  Timing timing;
  if (trace_ == nullptr) {
    timing = by_events(run);
  } else {
    try {
      timing = by_cupti(run);
      detail::name_kernels(timing.kernels, launched);
    } catch (const CudaError& error) {
      timing = by_events(run);
      timing.note = error.what();
    }
  }
  timing.hot = options_.flush_bytes == 0;
  return timing;
}

Timing DeviceTimer::by_cupti(const std::function<void(std::int64_t)>& run) {
  trace_->take();  // of the warm-up and of what came before
  for (int i = 0; i < options_.runs; ++i) {
    flush();
    run(i);
  }
  cuda::synchronize(context_);
  return detail::timing_of(trace_->take(), options_.runs);
}

Timing DeviceTimer::by_events(const std::function<void(std::int64_t)>& run) const {
  Timing timing{.method = "events", .us = {}, .kernels = {}, .kernel_us = {}, .note = reason_};
  const cuda::Event start(context_, /*timing=*/true);
  const cuda::Event end(context_, /*timing=*/true);
  for (int i = 0; i < options_.runs; ++i) {
    flush();
    start.record(context_);
    run(i);
    end.record(context_);
    end.synchronize();
    timing.us.push_back(end.milliseconds_since(start) * 1e3);
  }
  return timing;
}

double host_cost_us(const Context& context, const std::function<void(std::int64_t)>& run) {
  constexpr int kBatches = 9;
  constexpr int kMostCalls = 100;
  constexpr std::size_t kMostLaunches = 400;  // of a batch: the driver's queue holds about 1024
  std::size_t launches = 0;                   // of one call
  for (int i = 0; i < 3; ++i) {
    const cuda::LaunchNames names;
    run(i);
    launches = names.names().size();
    cuda::synchronize(context);
  }
  const int calls =
      std::clamp(static_cast<int>(kMostLaunches / std::max<std::size_t>(launches, 1)), 1, kMostCalls);
  Timing batches;
  for (int batch = 0; batch < kBatches; ++batch) {
    cuda::synchronize(context);
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) run(i);
    const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - start;
    batches.us.push_back(time.count() / calls);
  }
  cuda::synchronize(context);
  return batches.median();
}

}  // namespace fathom
