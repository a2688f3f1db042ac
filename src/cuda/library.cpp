#include "cuda/library.hpp"

#include <dlfcn.h>

namespace fathom::cuda {

Library::Library(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    if ((handle_ = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) != nullptr) {
      detail_ = name;
      return;
    }
    const char* error = dlerror();
    if (detail_.empty()) detail_ = error != nullptr ? error : name + ": dlopen failed";
  }
}

void* Library::symbol(const char* name) {
  void* found = handle_ != nullptr ? dlsym(handle_, name) : nullptr;
  if (found == nullptr) missing_ += (missing_.empty() ? "" : ", ") + std::string(name);
  return found;
}

void Library::open_beside(const void* function, const std::string& name) {
  Dl_info info{};
  if (dladdr(function, &info) == 0 || info.dli_fname == nullptr) return;
  const std::string file = info.dli_fname;
  const auto slash = file.rfind('/');
  if (slash != std::string::npos) dlopen((file.substr(0, slash + 1) + name).c_str(), RTLD_NOW | RTLD_LOCAL);
}

}  // namespace fathom::cuda
