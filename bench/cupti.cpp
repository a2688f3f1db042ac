#include "cupti.hpp"

#include <cxxabi.h>
#include <glob.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>

#include "cuda/library.hpp"

namespace fathom::cuda {
namespace {

// CUPTI's callbacks carry no pointer of ours, and it calls them from threads of its own.
struct Records {
  std::mutex mutex;
  std::shared_ptr<const Cupti> library;  // of the trace that lives
  std::vector<Activity> activities;
  std::size_t dropped = 0;
  std::string error;
};
Records& records() {
  static Records instance;
  return instance;
}

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;
constexpr std::size_t kBufferAlignment = 64;

void buffer_requested(std::uint8_t** buffer, std::size_t* bytes, std::size_t* max_records) {
  *buffer = static_cast<std::uint8_t*>(std::aligned_alloc(kBufferAlignment, kBufferBytes));
  *bytes = *buffer != nullptr ? kBufferBytes : 0;
  *max_records = 0;  // as many as fit
}

std::string readable(const char* name) {
  if (name == nullptr) return "unnamed";
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> text(abi::__cxa_demangle(name, nullptr, nullptr, &status),
                                                    std::free);
  return status == 0 && text != nullptr ? text.get() : name;
}

void read_record(const CuptiRecord& record, std::vector<Activity>& activities) {
  if (record.kind == kCuptiConcurrentKernel) {
    const auto& kernel = reinterpret_cast<const CuptiKernelRecord&>(record);
    activities.push_back(
        {.name = readable(kernel.name), .start_ns = kernel.start_ns, .end_ns = kernel.end_ns});
  } else if (record.kind == kCuptiMemset) {
    const auto& memset = reinterpret_cast<const CuptiMemsetRecord&>(record);
    activities.push_back({.name = {},
                          .memset = true,
                          .memset_value = memset.value,
                          .memset_bytes = memset.bytes,
                          .start_ns = memset.start_ns,
                          .end_ns = memset.end_ns});
  }
}

void buffer_completed(ContextHandle context, std::uint32_t stream, std::uint8_t* buffer, std::size_t,
                      std::size_t valid_bytes) {
  const std::unique_ptr<std::uint8_t, void (*)(void*)> owned(buffer, std::free);
  Records& all = records();
  const std::lock_guard lock(all.mutex);
  if (all.library == nullptr) return;  // too late: the trace is over
  CuptiRecord* record = nullptr;
  Result status = kSuccess;
  while (valid_bytes > 0 &&
         (status = all.library->cuptiActivityGetNextRecord(buffer, valid_bytes, &record)) == kSuccess) {
    read_record(*record, all.activities);
  }
  if (valid_bytes > 0 && status != kCuptiMaxLimitReached) {
    all.error = "cuptiActivityGetNextRecord: status " + std::to_string(status);
  }
  std::size_t dropped = 0;
  if (all.library->cuptiActivityGetNumDroppedRecords(context, stream, &dropped) == kSuccess) {
    all.dropped += dropped;
  }
}

void add_matches(const std::string& pattern, std::vector<std::string>& files) {
  glob_t found{};
  if (glob(pattern.c_str(), GLOB_BRACE, nullptr, &found) == 0) {
    // The newest first: its name sorts last.
    for (std::size_t i = found.gl_pathc; i > 0; --i) files.emplace_back(found.gl_pathv[i - 1]);
  }
  globfree(&found);
}

std::vector<std::string> usual_files() {
  std::vector<std::string> files{"libcupti.so.13", "libcupti.so.12", "libcupti.so"};
  for (const char* variable : {"CUDA_HOME", "CUDA_PATH"}) {
    const char* toolkit = std::getenv(variable);
    if (toolkit == nullptr || *toolkit == 0) continue;
    for (const char* folder : {"/extras/CUPTI/lib64", "/lib64"}) {
      for (const char* version : {"13", "12"})
        files.push_back(std::string(toolkit) + folder + "/libcupti.so." + version);
    }
  }
  for (const char* folder :
       {"/usr/local/cuda{,-[0-9]*}/extras/CUPTI/lib64", "/usr/local/cuda{,-[0-9]*}/lib{64,}",
        "/usr/lib/{x86_64-linux-gnu,aarch64-linux-gnu}",
        "/usr{,/local}/lib/python3*/{dist,site}-packages/nvidia/c*/lib"}) {
    add_matches(std::string(folder) + "/libcupti.so.1[23]", files);
  }
  return files;
}

}  // namespace

void Cupti::check(Result status, std::string_view call) const {
  if (status == kSuccess) return;
  const char* text = nullptr;
  std::string reason = "status " + std::to_string(status);
  if (cuptiGetResultString(status, &text) == kSuccess && text != nullptr) reason = text;
  throw CudaError(std::string(call) + ": " + reason, status);
}

CuptiProbe find_cupti(const std::string& path) {
  Library library(path.empty() ? usual_files() : std::vector<std::string>{path});
  if (!library.found()) return {nullptr, library.detail()};
  auto table = std::make_shared<Cupti>();
#define FATHOM_CUPTI_FIND(name, ...) library.find(#name, table->name);
  FATHOM_CUPTI(FATHOM_CUPTI_FIND)
#undef FATHOM_CUPTI_FIND
  if (!library.missing().empty()) return {nullptr, library.detail() + " lacks " + library.missing()};
  std::uint32_t version = 0;
  std::string detail = library.detail();
  if (table->cuptiGetVersion(&version) == kSuccess) detail += ", API " + std::to_string(version);
  return {std::move(table), std::move(detail)};
}

ActivityTrace::ActivityTrace(std::shared_ptr<const Cupti> library) : library_(std::move(library)) {
  Records& all = records();
  {
    const std::lock_guard lock(all.mutex);
    if (all.library != nullptr) throw InvalidArgument("ActivityTrace: there is one already");
    all.library = library_;
    all.activities.clear();
    all.dropped = 0;
    all.error.clear();
  }
  try {
    library_->check(library_->cuptiActivityRegisterCallbacks(buffer_requested, buffer_completed),
                    "cuptiActivityRegisterCallbacks");
    library_->check(library_->cuptiActivityEnable(kCuptiConcurrentKernel), "cuptiActivityEnable of kernels");
    library_->check(library_->cuptiActivityEnable(kCuptiMemset), "cuptiActivityEnable of memsets");
  } catch (...) {
    library_->cuptiActivityDisable(kCuptiConcurrentKernel);
    const std::lock_guard lock(all.mutex);
    all.library = nullptr;
    throw;
  }
}

ActivityTrace::~ActivityTrace() {
  library_->cuptiActivityDisable(kCuptiMemset);
  library_->cuptiActivityDisable(kCuptiConcurrentKernel);
  library_->cuptiActivityFlushAll(kCuptiFlushForced);
  Records& all = records();
  const std::lock_guard lock(all.mutex);
  all.library = nullptr;
  all.activities.clear();
}

std::vector<Activity> ActivityTrace::take() {
  library_->check(library_->cuptiActivityFlushAll(kCuptiFlushForced), "cuptiActivityFlushAll");
  Records& all = records();
  std::vector<Activity> taken;
  std::size_t dropped = 0;
  std::string error;
  {
    const std::lock_guard lock(all.mutex);
    std::swap(taken, all.activities);
    std::swap(dropped, all.dropped);
    std::swap(error, all.error);
  }
  if (!error.empty()) throw CudaError("CUPTI's records cannot be read: " + error, kErrorInvalidValue);
  if (dropped > 0) {
    throw CudaError("CUPTI has dropped " + std::to_string(dropped) + " records", kErrorOutOfMemory);
  }
  std::stable_sort(taken.begin(), taken.end(),
                   [](const Activity& a, const Activity& b) { return a.start_ns < b.start_ns; });
  return taken;
}

}  // namespace fathom::cuda
