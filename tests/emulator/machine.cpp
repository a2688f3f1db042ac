// Runs grids: fibers, barriers, and the choice of what goes on next.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <random>
#include <stdexcept>
#include <utility>

#include "emulator/state.hpp"

namespace fathom::emulator {

extern "C" {
const Self* fathom_emulator_self = nullptr;
}

namespace {

constexpr std::size_t kStackBytes = 64 << 10;
constexpr u64 kStackMark = 0x5AFE57ACC0DEull;
constexpr const char* kTooLittleStack = "the thread needs more stack than the emulator gives it";
constexpr std::size_t kPoisonMargin = 4096;  // bytes around shared memory that must stay as they are
constexpr u8 kPoison = 0xFF;                 // NaN in every format

Thread* t_self = nullptr;
Cluster* t_cluster = nullptr;
Fiber t_scheduler;
std::mt19937_64 t_random;

/// How often something asynchronous lands as early as it can: never before somebody has to wait for it, now
/// and then, mostly.
struct Seed {
  u64 value = 0;
  double early = 0;
};
Seed t_seed;

Seed seed_of_environment() {
  const char* text = std::getenv("FATHOM_EMULATOR_SEED");
  const u64 value = text == nullptr ? 0 : std::strtoull(text, nullptr, 10);
  return {value, value % 3 == 0 ? 0 : value % 3 == 1 ? 0.1 : 0.8};
}

template <class T>
struct Mapping {  // memory that costs nothing until it is touched
  explicit Mapping(std::size_t count) : bytes(count * sizeof(T)) {
    void* made =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (made == MAP_FAILED) throw std::bad_alloc();
    data = static_cast<T*>(made);
  }
  ~Mapping() { munmap(data, bytes); }
  Mapping(const Mapping&) = delete;
  T* data;
  std::size_t bytes;
};

// Goes on where another fiber stopped: the registers that a call preserves go to the stack, and the stack
// changes. A switch happens at every barrier and shuffle of every lane; ucontext would ask the kernel for the
// signal mask each time.
extern "C" void fathom_emulator_switch(void** from, void* to);
asm(R"(
.pushsection .text
.p2align 4
.hidden fathom_emulator_switch
.type fathom_emulator_switch, @function
fathom_emulator_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size fathom_emulator_switch, . - fathom_emulator_switch
.popsection
)");

void switch_to(Fiber& from, Fiber& to) { fathom_emulator_switch(&from.pointer, to.pointer); }

bool stack_has_overflown(const Fiber& fiber) {
  u64 mark = 0;
  std::memcpy(&mark, fiber.stack, sizeof mark);
  return mark != kStackMark;
}

void thread_ends() {
  Thread& thread = self();
  if (stack_has_overflown(thread.fiber)) fail(kTooLittleStack);
  Block& block = *thread.home;
  thread.ended = true;
  --t_cluster->live;
  if (--block.live > 0 && block.sync.arrived == block.live) {
    block.sync.arrived = 0;
    wake_all(block.sync.waiting);
  }
  // A thread may end before its copies have landed, its block may not: the memory goes to another one.
  for (const Thread& other : t_cluster->threads) {
    if (block.live > 0) break;
    if (other.home != &block) continue;
    if (!other.copies.waiting.empty()) fail("a block ended before its copies to shared memory had landed");
    if (!other.stores.waiting.empty())
      fail("a block ended while the copy engine still had to read its shared memory");
  }
  ++t_cluster->cluster_ended;
  if (thread.cluster_phase == t_cluster->cluster_phase) {
    thread.cluster_phase = ~0u;
    if (++t_cluster->cluster_arrived == t_cluster->threads.size()) {
      ++t_cluster->cluster_phase;
      t_cluster->cluster_arrived = t_cluster->cluster_ended;
      wake_all(t_cluster->cluster_waiting);
    }
  }
}

void thread_main() {
  t_cluster->launch->entry(t_cluster->launch->parameters);
  thread_ends();
  switch_to(t_self->fiber, t_scheduler);
}

/// A fiber that will run thread_main() on this stack. Stacks begin at different lines of a page, or all of
/// them would share a few sets of the caches.
void prepare(Fiber& fiber, u8* stack, std::size_t number) {
  std::memcpy(stack, &kStackMark, sizeof kStackMark);
  auto* const end = reinterpret_cast<u64*>(stack + kStackBytes - number % 32 * 128);
  // Above: nothing to return to. Then where the first switch goes, and six registers.
  end[-1] = 0;
  end[-2] = reinterpret_cast<u64>(&thread_main);
  std::fill(end - 8, end - 2, u64{0});
  fiber = {stack, end - 8};
}

/// Stacks for as many threads, kept for the next launch; the driver's lock is held. A thread goes on for a
/// few hundred instructions at a time: small pages would be looked up anew each time.
u8* stacks_of(std::size_t threads) {
  static std::optional<Mapping<u8>> kept;
  if (!kept || kept->bytes < threads * kStackBytes) {
    kept.emplace(threads * kStackBytes);
    madvise(kept->data, kept->bytes, MADV_HUGEPAGE);
  }
  return kept->data;
}

/// Lands one asynchronous operation; false if there is none.
bool land_one() {
  Cluster& c = *t_cluster;
  std::erase_if(c.queued, [](Thread* t) { return t->copies.waiting.empty() && t->stores.waiting.empty(); });
  const std::size_t choices = c.operations.size() + c.queued.size();
  if (choices == 0) return false;
  const std::size_t choice = t_seed.value == 0 ? 0 : t_random() % choices;
  Operation operation;
  if (choice < c.operations.size()) {
    const auto at = c.operations.begin() + static_cast<std::ptrdiff_t>(choice);
    operation = std::move(*at);
    c.operations.erase(at);
  } else {
    Thread& thread = *c.queued[choice - c.operations.size()];
    std::list<Operation>& queue =
        thread.copies.waiting.empty() ? thread.stores.waiting : thread.copies.waiting;
    operation = std::move(queue.front());
    queue.pop_front();
  }
  operation.run();
  return true;
}

std::string place(const Thread& t) {
  return "block " + std::to_string(t.block.x) + "," + std::to_string(t.block.y) + "," +
         std::to_string(t.block.z) + " warp " + std::to_string(t.linear / 32);
}

/// What every warp waits for, one line for lanes that wait for the same.
std::string waiting_report() {
  std::string report = "no thread can go on:";
  std::string last;
  int lines = 0;
  for (const Thread& t : t_cluster->threads) {
    if (t.ended || !t.waits || t.reason == nullptr) continue;
    const std::string line = "\n  " + place(t) + " waits for " + t.reason(t);
    if (line == last) continue;
    last = line;
    if (++lines > 40) return report + "\n  ...";
    report += line;
  }
  return report;
}

void schedule() {
  Cluster& c = *t_cluster;
  while (c.live > 0 && c.failure.empty()) {
    if (!c.ready.empty()) {
      if (happens_early()) land_one();
      if (t_seed.value != 0) std::swap(c.ready.front(), c.ready[t_random() % c.ready.size()]);
      Thread& next = *c.ready.front();
      c.ready.pop_front();
      t_self = &next;
      fathom_emulator_self = &next;
      switch_to(t_scheduler, next.fiber);
      t_self = nullptr;
      if (c.paused.empty() || c.paused.back() != &next) c.pauses = 0;
    } else if (land_one()) {
      c.pauses = 0;
    } else if (!c.paused.empty() && c.pauses++ < 2) {
      wake_all(c.paused);
    } else {
      c.failure = waiting_report();
    }
  }
  while (c.failure.empty() && land_one()) {
  }
}

std::string pause_reason(const Thread&) { return "what another thread has to write to memory"; }
std::string barrier_reason(const Thread& t) {
  u64 word = 0;
  std::memcpy(&word, bytes_of(*t.home, t.detail[0], 8), 8);
  char text[128];
  std::snprintf(text, sizeof text,
                "phase of parity %u at mbarrier 0x%x (now %u, %u arrivals and %d bytes missing)", t.detail[1],
                t.detail[0], static_cast<unsigned>(word & 1), static_cast<unsigned>(word >> 16 & 0xFFFF),
                static_cast<int>(word >> 32));
  return text;
}
std::string bar_reason(const Thread& t) {
  return "barrier " + std::to_string(t.detail[0]) + " of " + std::to_string(t.detail[1]) + " threads";
}
std::string sync_reason(const Thread&) { return "__syncthreads()"; }
std::string cluster_reason(const Thread&) { return "the cluster's barrier"; }
std::string exchange_reason(const Thread& t) {
  char text[64];
  std::snprintf(text, sizeof text, "lanes 0x%08x", t.detail[0]);
  return text;
}

struct MbarrierWord {
  explicit MbarrierWord(Block& block, u32 address) {
    if (address % 8 != 0) fail("an mbarrier is not aligned to 8 bytes");
    home = reinterpret_cast<u64*>(bytes_of(block, address, 8));
    phase = static_cast<u32>(*home & 1);
    expected = static_cast<u32>(*home >> 1 & 0x7FFF);
    pending = static_cast<u32>(*home >> 16 & 0xFFFF);
    bytes = static_cast<std::int32_t>(*home >> 32);
  }
  void store() const {
    *home = phase | u64{expected} << 1 | u64{pending} << 16 | u64{static_cast<u32>(bytes)} << 32;
  }
  u64* home;
  u32 phase, expected, pending;
  std::int32_t bytes;
};

void settle(Block& block, u32 address, MbarrierWord& word) {
  if (word.bytes >= 1 << 20 || word.bytes <= -(1 << 20)) fail("an mbarrier counts 2^20 bytes or more");
  const bool complete = word.pending == 0 && word.bytes == 0;
  if (complete) {
    word.phase ^= 1;
    word.pending = word.expected;
  }
  word.store();
  if (!complete) return;
  const auto waiting = block.mbarrier_waits.find(address);
  if (waiting != block.mbarrier_waits.end()) wake_all(waiting->second);
}

}  // namespace

Thread& self() {
  if (t_self == nullptr) fail("an asynchronous operation asked for the running thread");
  return *t_self;
}
Cluster& cluster() { return *t_cluster; }

void fail(const std::string& why) {
  if (t_cluster->failure.empty())
    t_cluster->failure =
        (t_self != nullptr ? place(*t_self) + " lane " + std::to_string(t_self->lane) + ": " : "") + why;
  if (t_self == nullptr) throw std::runtime_error(why);
  switch_to(t_self->fiber, t_scheduler);
  std::abort();  // a fiber that failed never goes on
}
void trap(const char* why) { fail(why); }

bool happens_early() {
  return t_seed.early > 0 && static_cast<double>(t_random() % 1024) < 1024 * t_seed.early;
}

void wait(std::string (*reason)(const Thread&), u32 first, u32 second) {
  Thread& thread = self();
  thread.waits = true;
  thread.reason = reason;
  thread.detail[0] = first;
  thread.detail[1] = second;
  // The mark is far from what is in the caches, and read at the thread's end only.
  if (static_cast<u8*>(__builtin_frame_address(0)) < thread.fiber.stack + kStackBytes / 16)
    fail(kTooLittleStack);
  switch_to(thread.fiber, t_scheduler);
}
void wake(Thread& thread) {
  if (!thread.waits) return;
  thread.waits = false;
  t_cluster->ready.push_back(&thread);
}
void wake_all(std::vector<Thread*>& waiting) {
  for (Thread* thread : waiting) wake(*thread);
  waiting.clear();
}

void pause() {
  t_cluster->paused.push_back(&self());
  wait(pause_reason);
}

void enqueue(OperationQueue& queue, std::function<void()> run) {
  Thread& thread = self();
  queue.waiting.push_back({std::move(run), queue.commits});
  if (std::find(t_cluster->queued.begin(), t_cluster->queued.end(), &thread) == t_cluster->queued.end())
    t_cluster->queued.push_back(&thread);
}
void drain(OperationQueue& queue, int pending) {
  while (!queue.waiting.empty()) {
    if (pending >= 0 && queue.waiting.front().group + static_cast<u32>(pending) >= queue.commits) return;
    const Operation operation = std::move(queue.waiting.front());
    queue.waiting.pop_front();
    operation.run();
  }
}

Block& block_of(u32 address) {
  Cluster& c = cluster();
  if (address >> kRankShift == 0) return *self().home;
  const u32 rank = (address >> kRankShift) - 1;
  if (rank >= c.blocks.size()) fail("an address of no block of the cluster");
  if (c.blocks[rank].live == 0) fail("an access to the shared memory of a block that has ended");
  return c.blocks[rank];
}
u8* bytes_of(Block& block, u32 address, u32 bytes) {
  const u32 offset = address & ((1u << kRankShift) - 1);
  if (offset < kSharedBase || offset + bytes > block.cluster->launch->shared_end()) {
    char text[128];
    std::snprintf(text, sizeof text, "%u bytes at shared address 0x%x, which ends at 0x%x", bytes, offset,
                  block.cluster->launch->shared_end());
    fail(text);
  }
  return block.shared + (offset - kSharedBase);
}

void* dynamic_shared() {
  const Launch& launch = *cluster().launch;
  return self().home->shared + (launch.shared_end() - launch.dynamic_bytes - kSharedBase);
}
unsigned shared_address(const void* pointer) {
  Block& block = *self().home;
  const auto* at = static_cast<const u8*>(pointer);
  if (at < block.shared || at > block.shared + (cluster().launch->shared_end() - kSharedBase))
    fail("a pointer to shared memory is none");
  return kSharedBase + static_cast<u32>(at - block.shared);
}
void* shared_bytes(unsigned address, unsigned bytes) {
  if (address % bytes != 0) fail("an access to shared memory is misaligned");
  return bytes_of(block_of(address), address, bytes);
}
unsigned mapa(unsigned address, unsigned rank) {
  if (rank >= cluster().blocks.size()) fail("mapa of a rank that the cluster does not have");
  return (address & ((1u << kRankShift) - 1)) | (rank + 1) << kRankShift;
}

void bar(int name, unsigned threads, bool waits) {
  if (name < 0 || name > 15 || threads % 32 != 0) fail("a named barrier of wrong arguments");
  NamedBarrier& barrier = self().home->bars[name];
  if (barrier.arrived > 0 && barrier.expected != threads) fail("threads disagree how many share a barrier");
  barrier.expected = threads;
  if (++barrier.arrived == threads) {
    barrier.arrived = 0;
    wake_all(barrier.waiting);
  } else if (waits) {
    barrier.waiting.push_back(&self());
    wait(bar_reason, static_cast<u32>(name), threads);
  }
}
void syncthreads() {
  Block& block = *self().home;
  if (++block.sync.arrived == block.live) {
    block.sync.arrived = 0;
    wake_all(block.sync.waiting);
  } else {
    block.sync.waiting.push_back(&self());
    wait(sync_reason);
  }
}
void cluster_arrive() {
  Cluster& c = cluster();
  Thread& thread = self();
  if (thread.cluster_phase != c.cluster_phase) fail("arrives twice at the cluster's barrier");
  thread.cluster_phase = c.cluster_phase + 1;
  if (++c.cluster_arrived == c.threads.size()) {
    ++c.cluster_phase;
    c.cluster_arrived = c.cluster_ended;
    wake_all(c.cluster_waiting);
  }
}
void cluster_wait() {
  Cluster& c = cluster();
  Thread& thread = self();
  if (thread.cluster_phase <= c.cluster_phase) return;
  c.cluster_waiting.push_back(&thread);
  wait(cluster_reason);
}
const unsigned long long* exchange(unsigned mask, unsigned long long value) {
  Thread& thread = self();
  if ((mask >> thread.lane & 1) == 0) fail("a lane is not in its own mask");
  Warp& warp = thread.home->warps[static_cast<std::size_t>(thread.linear / 32)];
  Exchange& e = mask == ~0u ? warp.whole : warp.parts[mask];
  const u32 phase = e.phase;
  e.values[phase & 1][thread.lane] = value;
  e.arrived |= 1u << thread.lane;
  if (e.arrived == mask) {
    e.arrived = 0;
    ++e.phase;
    wake_all(e.waiting);
  } else {
    e.waiting.push_back(&thread);
    wait(exchange_reason, mask);
  }
  static_assert(sizeof(u64) == sizeof(unsigned long long));
  return reinterpret_cast<const unsigned long long*>(e.values[phase & 1]);
}

void mbarrier_init(unsigned barrier, unsigned count) {
  if (count == 0 || count > 0x7FFF) fail("an mbarrier of no arrivals, or of more than the emulator counts");
  MbarrierWord word(*self().home, barrier);
  word.phase = 0;
  word.expected = word.pending = count;
  word.bytes = 0;
  word.store();
}
void arrive(Block& block, u32 barrier) {
  MbarrierWord word(block, barrier);
  if (word.pending == 0) fail("more arrivals at an mbarrier than it counts");
  --word.pending;
  settle(block, barrier & ((1u << kRankShift) - 1), word);
}
void complete_bytes(Block& block, u32 barrier, u32 bytes) {
  MbarrierWord word(block, barrier);
  word.bytes -= static_cast<std::int32_t>(bytes);
  settle(block, barrier & ((1u << kRankShift) - 1), word);
}
void mbarrier_arrive(unsigned barrier) { arrive(block_of(barrier), barrier); }
void mbarrier_expect(unsigned barrier, unsigned bytes) {
  MbarrierWord word(*self().home, barrier);
  word.bytes += static_cast<std::int32_t>(bytes);
  word.store();
}
void mbarrier_wait(unsigned barrier, unsigned parity) {
  Block& block = *self().home;
  // Looked at again after waking: whoever waits may find the phase after the next one.
  while (MbarrierWord(block, barrier).phase == (parity & 1)) {
    block.mbarrier_waits[barrier].push_back(&self());
    wait(barrier_reason, barrier, parity);
  }
}

std::string run(const Launch& launch) {
  const u32 threads = launch.threads.x * launch.threads.y * launch.threads.z;
  if (threads == 0 || threads > 1024) return "a block of " + std::to_string(threads) + " threads";
  if (launch.cluster == 0 || launch.cluster > 16 || launch.grid.x % launch.cluster != 0)
    return "a grid that is no whole number of clusters";
  if (launch.cluster > 1 && launch.static_bytes > 0)
    return "static shared memory in a cluster of blocks, which the emulator does not have";
  if (launch.shared_end() - kSharedBase > kMostShared) return "more shared memory than a block can have";
  const std::size_t all = std::size_t{threads} * launch.cluster;
  u8* const stacks = stacks_of(all);
  const std::size_t slot = (launch.shared_end() - kSharedBase + 1023) / 1024 * 1024 + 2 * kPoisonMargin;
  const Mapping<u8> shared(slot * launch.cluster);
  t_seed = seed_of_environment();
  t_random.seed(t_seed.value);
  const u64 clusters = u64{launch.grid.x} / launch.cluster * launch.grid.y * launch.grid.z;
  for (u64 number = 0; number < clusters; ++number) {
    Cluster c;
    c.launch = &launch;
    c.blocks.resize(launch.cluster);
    c.live = static_cast<u32>(all);
    t_cluster = &c;
    const u64 across = launch.grid.x / launch.cluster;
    std::memset(shared.data, kPoison, shared.bytes);
    if (launch.static_bytes > 0) std::memset(launch.statics, kPoison, launch.static_bytes);
    for (u32 rank = 0; rank < launch.cluster; ++rank) {
      Block& block = c.blocks[rank];
      block.cluster = &c;
      block.rank = rank;
      block.index = {static_cast<u32>(number % across) * launch.cluster + rank,
                     static_cast<u32>(number / across % launch.grid.y),
                     static_cast<u32>(number / across / launch.grid.y)};
      block.shared = shared.data + slot * rank + kPoisonMargin;
      block.live = threads;
      block.warps.resize((threads + 31) / 32);
      block.warpgroups.resize((threads + 127) / 128);
      for (u32 i = 0; i < threads; ++i) {
        Thread& t = c.threads.emplace_back();
        t.thread = {i % launch.threads.x, i / launch.threads.x % launch.threads.y,
                    i / launch.threads.x / launch.threads.y};
        t.block = block.index;
        t.block_size = launch.threads;
        t.grid_size = launch.grid;
        t.lane = static_cast<int>(i % 32);
        t.rank = rank;
        t.cluster = launch.cluster;
        t.home = &block;
        t.linear = static_cast<int>(i);
        const std::size_t place = std::size_t{rank} * threads + i;
        prepare(t.fiber, stacks + place * kStackBytes, place);
        c.ready.push_back(&t);
      }
    }
    try {
      schedule();
    } catch (const std::runtime_error&) {  // fail() outside of a thread; c.failure has the text
    }
    t_self = nullptr;
    t_cluster = nullptr;
    if (!c.failure.empty()) return c.failure;
    for (u32 rank = 0; rank < launch.cluster; ++rank) {
      const u8* begin = shared.data + slot * rank;
      const u8* end = begin + kPoisonMargin + (launch.shared_end() - kSharedBase);
      const auto written = [](u8 byte) { return byte != kPoison; };
      if (std::any_of(begin, begin + kPoisonMargin, written) || std::any_of(end, begin + slot, written))
        return "a write beside the shared memory of block " + std::to_string(c.blocks[rank].index.x);
    }
  }
  return {};
}

}  // namespace fathom::emulator
