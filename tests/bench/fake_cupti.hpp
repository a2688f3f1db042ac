// FakeCupti: a CUPTI table that hands over the records a test wants, at the next flush. Every buffer is cut
// into slots of 128 bytes, a record in each.
#pragma once
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cupti.hpp"
#include "device_timer.hpp"

namespace fathom::cuda {

class FakeCupti {
 public:
  FakeCupti() { current_ = this; }
  ~FakeCupti() { current_ = nullptr; }
  FakeCupti(const FakeCupti&) = delete;
  FakeCupti& operator=(const FakeCupti&) = delete;

  static constexpr std::size_t kSlot = 128;
  std::map<std::string, Result> failures;  // of functions by name
  std::size_t dropped = 0;                 // said once, at the next buffer
  Result end_of_buffer = kCuptiMaxLimitReached;
  std::size_t records_per_buffer = 2;
  std::vector<int> enabled;
  std::vector<int> disabled;

  void kernel(const char* name, std::uint64_t start_ns, std::uint64_t end_ns) {
    CuptiKernelRecord record{};
    record.kind = kCuptiConcurrentKernel;
    record.start_ns = start_ns;
    record.end_ns = end_ns;
    record.name = name;
    add(record);
  }
  void memset(std::uint64_t bytes, std::uint64_t start_ns, std::uint32_t value = detail_value()) {
    CuptiMemsetRecord record{};
    record.kind = kCuptiMemset;
    record.value = value;
    record.bytes = bytes;
    record.start_ns = start_ns;
    record.end_ns = start_ns + 10;
    add(record);
  }
  void other(int kind) { add(CuptiRecord{kind}); }

  std::shared_ptr<const Cupti> table() const {
    auto table = std::make_shared<Cupti>();
    table->cuptiGetVersion = [](std::uint32_t* version) { return *version = 26, kSuccess; };
    table->cuptiGetResultString = [](Result status, const char** text) {
      *text = status == 35 ? "CUPTI_ERROR_INSUFFICIENT_PRIVILEGES" : nullptr;
      return kSuccess;
    };
    table->cuptiActivityEnable = [](int kind) {
      current_->enabled.push_back(kind);
      return current_->status("cuptiActivityEnable");
    };
    table->cuptiActivityDisable = [](int kind) { return current_->disabled.push_back(kind), kSuccess; };
    table->cuptiActivityRegisterCallbacks = [](CuptiBufferRequested requested,
                                               CuptiBufferCompleted completed) {
      current_->requested_ = requested;
      current_->completed_ = completed;
      return current_->status("cuptiActivityRegisterCallbacks");
    };
    table->cuptiActivityGetNextRecord = [](std::uint8_t* buffer, std::size_t bytes, CuptiRecord** record) {
      std::uint8_t* next =
          *record == nullptr ? buffer : reinterpret_cast<std::uint8_t*>(*record) + FakeCupti::kSlot;
      if (next >= buffer + bytes) return current_->end_of_buffer;
      *record = reinterpret_cast<CuptiRecord*>(next);
      return kSuccess;
    };
    table->cuptiActivityGetNumDroppedRecords = [](ContextHandle, std::uint32_t, std::size_t* count) {
      *count = std::exchange(current_->dropped, 0);
      return kSuccess;
    };
    table->cuptiActivityFlushAll = [](std::uint32_t) { return current_->flush(); };
    return table;
  }

 private:
  static std::uint32_t detail_value() { return fathom::detail::kFlushValue; }
  Result status(const std::string& name) const {
    const auto found = failures.find(name);
    return found == failures.end() ? kSuccess : found->second;
  }
  template <class Record>
  void add(const Record& record) {
    static_assert(sizeof(Record) <= kSlot);
    auto& slot = records_.emplace_back();
    std::memcpy(slot.data(), &record, sizeof(Record));
  }
  Result flush() {
    if (const Result failed = status("cuptiActivityFlushAll")) return failed;
    while (!records_.empty() || dropped > 0) {
      std::uint8_t* buffer = nullptr;
      std::size_t bytes = 0;
      std::size_t most = 0;
      requested_(&buffer, &bytes, &most);
      std::size_t valid = 0;
      for (; !records_.empty() && valid < records_per_buffer * kSlot; valid += kSlot) {
        std::memcpy(buffer + valid, records_.front().data(), kSlot);
        records_.pop_front();
      }
      completed_(nullptr, 0, buffer, bytes, valid);
    }
    return kSuccess;
  }

  static inline FakeCupti* current_ = nullptr;  // plain function pointers carry no state
  std::deque<std::array<std::uint8_t, kSlot>> records_;
  CuptiBufferRequested requested_ = nullptr;
  CuptiBufferCompleted completed_ = nullptr;
};

}  // namespace fathom::cuda
