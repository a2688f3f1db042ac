#include "core/team.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <thread>
#include <utility>
#include <vector>

namespace fathom {
namespace {

constexpr int kWatch = 2000;                                // looks at a flag, some 30 us, before ...
constexpr auto kLinger = std::chrono::microseconds(300);    // ... yielding this long, before leaving
constexpr std::int64_t kMostCount = std::int64_t{1} << 31;  // a range is packed into 64 bits

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

/// Calls done() until it is true; false if it is not after kLinger and `patient` is not set.
template <class Done>
bool wait_until(const Done& done, bool patient) {
  for (int i = 0; i < kWatch; ++i) {
    if (done()) return true;
    relax();
  }
  const auto start = std::chrono::steady_clock::now();
  while (!done()) {
    if (!patient && std::chrono::steady_clock::now() - start > kLinger) return false;
    std::this_thread::yield();
  }
  return true;
}

/// What is left of one thread's share, [begin, end). Its owner takes from the front, the others from the
/// back, so that every thread walks through memory in order.
class alignas(64) Share {
 public:
  void set(std::int64_t begin, std::int64_t end) {
    range_.store(pack(begin, end), std::memory_order_relaxed);
  }

  /// Takes half of it, and at least `grain`: pieces shrink, so that all threads end together.
  bool take(bool front, std::int64_t grain, std::int64_t& begin, std::int64_t& end) {
    std::uint64_t range = range_.load(std::memory_order_relaxed);
    for (;;) {
      begin = static_cast<std::int64_t>(range >> 32);
      end = static_cast<std::int64_t>(range & 0xffffffffu);
      if (begin >= end) return false;
      std::int64_t part = std::max((end - begin + 1) / 2, grain);
      if (end - begin - part < grain) part = end - begin;  // pieces have at least `grain`
      const std::uint64_t rest = front ? pack(begin + part, end) : pack(begin, end - part);
      if (range_.compare_exchange_weak(range, rest, std::memory_order_relaxed)) {
        (front ? end : begin) = front ? begin + part : end - part;
        return true;
      }
    }
  }

 private:
  static std::uint64_t pack(std::int64_t begin, std::int64_t end) {
    return static_cast<std::uint64_t>(begin) << 32 | static_cast<std::uint64_t>(end);
  }
  std::atomic<std::uint64_t> range_ = 0;
};

thread_local bool in_loop = false;

}  // namespace

/// What caller and helpers see.
struct Team::Shared {
  // state: number of the loop << 32 | kOpen | helpers inside. A helper enters a loop only while it is open.
  static constexpr std::uint64_t kOpen = 1u << 31;
  static constexpr std::uint64_t kInside = kOpen - 1;

  explicit Shared(int threads)
      : shares(static_cast<std::size_t>(threads)), present(static_cast<std::size_t>(threads)) {}

  // One line of the cache: what a helper must know comes with what it watches.
  alignas(64) std::atomic<std::uint64_t> state = 0;
  const RangeBody* body = nullptr;  // from here the present loop's
  std::int64_t grain = 1;
  std::atomic<std::uint64_t> most_inside = 0;
  std::atomic<bool> failed = false;
  alignas(64) std::exception_ptr error;  // of the thread that set `failed`
  std::vector<Share> shares;
  std::atomic<int> helpers = 0;            // invited and not gone
  std::vector<std::atomic<bool>> present;  // which shares have a helper; share 0 is the caller's
  std::atomic<bool> stop = false;

  /// A thread's part in a loop: its share, then what others have not begun.
  void work(std::size_t self) {
    in_loop = true;
    try {
      std::int64_t begin = 0, end = 0;
      for (std::size_t i = 0; i < shares.size(); ++i) {
        Share& share = shares[(self + i) % shares.size()];
        while (!failed.load(std::memory_order_relaxed) && share.take(i == 0, grain, begin, end))
          (*body)(begin, end);
      }
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
    }
    in_loop = false;
  }

  void help() {
    std::size_t self = 1;
    while (present[self].exchange(true)) self = self + 1 < present.size() ? self + 1 : 1;
    std::uint64_t last = 0;  // loop that it was in
    std::uint64_t now = 0;
    const auto open = [&] {
      now = state.load(std::memory_order_acquire);
      const bool enter = (now & kOpen) != 0 && now >> 32 != last &&
                         (now & kInside) < most_inside.load(std::memory_order_relaxed);
      return enter || stop.load(std::memory_order_relaxed);
    };
    while (wait_until(open, false) && !stop.load(std::memory_order_relaxed)) {
      if (!state.compare_exchange_strong(now, now + 1, std::memory_order_acquire)) continue;
      last = now >> 32;
      work(self);
      state.fetch_sub(1, std::memory_order_release);
    }
    present[self].store(false);
    helpers.fetch_sub(1);
  }
};

Team::Team(int threads) : threads_(threads), shared_(std::make_unique<Shared>(threads)), arena_(threads) {}

// Runs what was enqueued and has not begun, which TBB would otherwise forget with its memory when the program
// ends.
Team::~Team() {
  shared_->stop.store(true);
  if (invited_) arena_.execute([this] { helpers_.wait(); });
}

void Team::invite(int count) {
  for (int i = 0; i < count; ++i) {
    invited_ = true;
    arena_.enqueue(helpers_.defer([this] { shared_->help(); }));
    shared_->helpers.fetch_add(1);  // not before: enqueue may throw
  }
}

void Team::run(std::int64_t count, std::int64_t grain, RangeBody body) {
  if (count <= 0) return;
  grain = std::max<std::int64_t>(grain, 1);
  if (threads_ == 1 || count <= grain || in_loop) return body(0, count);
  if (count >= kMostCount) {
    run(kMostCount - 1, grain, body);
    return run(count - (kMostCount - 1), grain, [&](std::int64_t begin, std::int64_t end) {
      body(begin + kMostCount - 1, end + kMostCount - 1);
    });
  }
  const std::lock_guard lock(mutex_);
  Shared& s = *shared_;
  const std::int64_t parts = std::min<std::int64_t>(threads_, (count + grain - 1) / grain);
  for (std::int64_t i = 0; i < threads_; ++i) {
    const std::int64_t part = std::min(i, parts), next = std::min(i + 1, parts);
    s.shares[static_cast<std::size_t>(i)].set(count * part / parts, count * next / parts);
  }
  s.body = &body;
  s.grain = grain;
  s.most_inside.store(static_cast<std::uint64_t>(parts - 1), std::memory_order_relaxed);
  // Before the loop is open: nobody may be inside when this throws.
  invite(static_cast<int>(parts) - 1 - s.helpers.load(std::memory_order_relaxed));
  const std::uint64_t loop = (s.state.load(std::memory_order_relaxed) >> 32) + 1;
  s.state.store(loop << 32 | Shared::kOpen, std::memory_order_release);
  s.work(0);
  s.state.fetch_and(~Shared::kOpen);
  wait_until([&] { return (s.state.load(std::memory_order_acquire) & Shared::kInside) == 0; }, true);
  if (s.failed.exchange(false)) std::rethrow_exception(std::exchange(s.error, nullptr));
}

}  // namespace fathom
