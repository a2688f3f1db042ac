// A shared library opened by name, and its functions by name. Libraries are never closed: none of NVIDIA's
// supports it.
#pragma once
#include <string>
#include <vector>

namespace fathom::cuda {

class Library {
 public:
  /// Opens the first of `names` that can be opened. Otherwise found() is false and detail() says why.
  explicit Library(const std::vector<std::string>& names);

  bool found() const { return handle_ != nullptr; }
  /// The name that was opened, or why none could be.
  const std::string& detail() const { return detail_; }

  /// Sets `function`, or adds the name to missing().
  template <class Function>
  void find(const char* name, Function& function) {
    function = reinterpret_cast<Function>(symbol(name));
  }
  /// Opens another library of the same folder, if there is one, so that it is there when this one opens it by
  /// name. `function` is one of this library's.
  template <class Function>
  void open_beside(Function function, const std::string& name) {
    open_beside(reinterpret_cast<const void*>(function), name);
  }
  /// The functions that find() did not find, comma-separated.
  const std::string& missing() const { return missing_; }

 private:
  void* symbol(const char* name);
  void open_beside(const void* function, const std::string& name);

  void* handle_ = nullptr;
  std::string detail_;
  std::string missing_;
};

}  // namespace fathom::cuda
