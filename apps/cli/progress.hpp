// A progress bar on standard error. It shows nothing unless that is a terminal.
#pragma once
#include <cstdint>
#include <string>

namespace fathom::cli {

/// One line that is drawn over and over and erased at the end.
class Progress {
 public:
  explicit Progress(std::string label);
  ~Progress() { erase(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// 0 to 1
  void show(double fraction);
  void show(std::int64_t done, std::int64_t total) {
    if (total > 0) show(static_cast<double>(done) / static_cast<double>(total));
  }
  void erase();

 private:
  std::string label_;
  bool terminal_;
  int percent_ = -1;  // that is on the screen
};

}  // namespace fathom::cli
