// DeviceTimer: how long the kernels of one run take on a device, with its caches emptied before every run.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cupti.hpp"
#include "fathom/core/context.hpp"
#include "fathom/cuda/device.hpp"

namespace fathom {

struct Timing {
  std::string method;                // "cupti": kernel time; "events": between two events around the run
  std::vector<double> us;            // of every run, in order
  std::vector<std::string> kernels;  // of one run, in order; cupti only
  std::vector<double>
      kernel_us;     // of each of them, the mean over the runs; none if the runs had different kernels
  std::string note;  // why it is not CUPTI's, or what else is odd; empty: nothing
  bool hot = false;  // the caches were left as they were

  bool measured() const { return !us.empty(); }
  bool kernel_time() const { return method == "cupti"; }
  double mean() const;
  double median() const;
  double least() const;
};

struct DeviceTimerOptions {
  std::int64_t flush_bytes = 8'000'000'000;  // written before every run; 0: the caches are left as they are
  int runs = 8;
  int warm_up = 3;
};

class DeviceTimer {
 public:
  /// For runs on the stream of `context`. Without a `cupti`, `reason` says why, and events are used.
  DeviceTimer(const Context& context, std::shared_ptr<const cuda::Cupti> cupti, std::string reason,
              DeviceTimerOptions options = {});

  /// `run` puts the work of one run on the stream; its argument counts runs.
  Timing time(const std::function<void(std::int64_t)>& run);
  /// Why figures are not CUPTI's; empty: they are.
  const std::string& reason() const { return reason_; }

 private:
  void flush() const;
  Timing by_cupti(const std::function<void(std::int64_t)>& run);
  Timing by_events(const std::function<void(std::int64_t)>& run) const;

  const Context& context_;
  DeviceTimerOptions options_;
  cuda::DeviceBuffer flushed_;
  std::unique_ptr<cuda::ActivityTrace> trace_;
  std::string reason_;
};

/// Microseconds that the host is busy with one warm call: the median over batches of up to a hundred calls,
/// fewer if a call launches many kernels: none waits for the device, as it would with the driver's queue
/// full. CUPTI must not be recording: it would be measured too.
double host_cost_us(const Context& context, const std::function<void(std::int64_t)>& run);

namespace detail {
inline constexpr std::uint8_t kFlushValue = 0xa7;             // of the memsets between runs
inline constexpr std::int64_t kLeastFlushBytes = 256 * 1024;  // and their least size
/// Cuts a trace at the memsets that the timer put before every run. Throws CudaError if there are not `runs`
/// runs with a kernel in each.
Timing timing_of(const std::vector<cuda::Activity>& activities, int runs);
/// Our kernels all have one entry point; they get the names with which they were launched, in order.
void name_kernels(std::vector<std::string>& kernels, const std::vector<std::string>& launched);
}  // namespace detail

}  // namespace fathom
