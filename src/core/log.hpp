// Messages of the library to stderr. Nothing else writes there.
#pragma once
#include <chrono>
#include <string>
#include <string_view>

namespace fathom {

void log_info(std::string_view message);
void log_warning(std::string_view message);

/// Logs "<label> <n> us" when it goes out of scope.
class ScopedTimer {
 public:
  explicit ScopedTimer(std::string label)
      : label_(std::move(label)), start_(std::chrono::steady_clock::now()) {}
  ~ScopedTimer();
  ScopedTimer(const ScopedTimer&) = delete;
  ScopedTimer& operator=(const ScopedTimer&) = delete;

 private:
  std::string label_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace fathom
