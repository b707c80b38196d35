// Calls a compiled log density and its gradient from any thread, without Python and its lock.
//
// The compiled graph is a shared library with the C interface of PyTorch's ahead-of-time Inductor. A
// sampler gets a plain C function and a pointer to one `Density`.

#include <dlfcn.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <new>
#include <vector>

#include <torch/csrc/inductor/aoti_runtime/interface.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

namespace {

using Create = decltype(&AOTInductorModelContainerCreateWithDevice);
using Delete = decltype(&AOTInductorModelContainerDelete);
using Run = decltype(&AOTInductorModelContainerRun);

constexpr int64_t kRecoverable = 1;  // not finite: the sampler takes it for a divergence

struct Density {
  void* library = nullptr;
  AOTInductorModelContainerHandle container = nullptr;
  Delete remove = nullptr;
  Run run = nullptr;
  // Everything the density reads beside its position, which is the first input.
  std::vector<AtenTensorHandle> held;
  std::atomic<uint64_t> kept{0};  // draws that samplers have stored
  std::atomic<bool> broken{false};
};

// A call that fails is no reason for a sampler's thread to end on its own: whoever started it asks and stops it.
int64_t Fail(Density* density) {
  density->broken = true;
  return kRecoverable;
}

}  // namespace

extern "C" {

void ppl_vae_close(void* pointer) {
  auto* density = static_cast<Density*>(pointer);
  if (density == nullptr) return;
  for (auto handle : density->held) aoti_torch_delete_tensor_object(handle);
  if (density->container != nullptr) density->remove(density->container);
  if (density->library != nullptr) dlclose(density->library);
  delete density;
}

// Opens a library for `threads` simultaneous callers; nullptr if that fails. The data of held tensors
// (contiguous) must outlive it.
void* ppl_vae_open(const char* path, uint64_t threads, uint64_t num_held, void* const* data,
                   const int64_t* ranks, const int64_t* sizes, const int32_t* dtypes) {
  auto* density = new (std::nothrow) Density;
  if (density == nullptr) return nullptr;
  density->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (density->library != nullptr) {
    auto create = reinterpret_cast<Create>(dlsym(density->library, "AOTInductorModelContainerCreateWithDevice"));
    density->remove = reinterpret_cast<Delete>(dlsym(density->library, "AOTInductorModelContainerDelete"));
    density->run = reinterpret_cast<Run>(dlsym(density->library, "AOTInductorModelContainerRun"));
    if (create && density->remove && density->run &&
        create(&density->container, threads, "cpu", nullptr) != 0)
      density->container = nullptr;
  }
  bool good = density->container != nullptr;
  for (uint64_t k = 0; good && k < num_held; ++k) {
    std::vector<int64_t> strides(ranks[k]);
    int64_t step = 1;
    for (int64_t dim = ranks[k] - 1; dim >= 0; --dim) {
      strides[dim] = step;
      step *= sizes[dim];
    }
    AtenTensorHandle handle;
    good = aoti_torch_create_tensor_from_blob(data[k], ranks[k], sizes, strides.data(), 0, dtypes[k],
                                              aoti_torch_device_type_cpu(), 0, &handle) == 0;
    if (good) density->held.push_back(handle);
    sizes += ranks[k];
  }
  if (good) return density;
  ppl_vae_close(density);
  return nullptr;
}

// The log density and its gradient at a position of length `dim`; 0 if both are finite.
int64_t ppl_vae_gradient(uint64_t dim, const double* position, double* gradient, double* log_density,
                         void* pointer) {
  auto* density = static_cast<Density*>(pointer);
  const size_t count = density->held.size() + 1;
  std::vector<AtenTensorHandle> inputs(count);
  const int64_t size = static_cast<int64_t>(dim), stride = 1;
  if (aoti_torch_create_tensor_from_blob(const_cast<double*>(position), 1, &size, &stride, 0,
                                         aoti_torch_dtype_float64(), aoti_torch_device_type_cpu(), 0,
                                         &inputs[0]) != 0)
    return Fail(density);
  for (size_t k = 1; k < count; ++k)  // the callee takes these over
    if (aoti_torch_new_tensor_handle(density->held[k - 1], &inputs[k]) != 0) return Fail(density);
  AtenTensorHandle outputs[2];
  if (density->run(density->container, inputs.data(), count, outputs, 2, nullptr, nullptr) != 0) return Fail(density);
  void *value = nullptr, *slope = nullptr;
  aoti_torch_get_data_ptr(outputs[0], &value);
  aoti_torch_get_data_ptr(outputs[1], &slope);
  *log_density = *static_cast<double*>(value);
  std::memcpy(gradient, slope, dim * sizeof(double));
  aoti_torch_delete_tensor_object(outputs[0]);
  aoti_torch_delete_tensor_object(outputs[1]);
  if (!std::isfinite(*log_density)) return kRecoverable;
  for (uint64_t k = 0; k < dim; ++k)
    if (!std::isfinite(gradient[k])) return kRecoverable;
  return 0;
}

// What a sampler stores of a draw: the position itself.
int64_t ppl_vae_keep(uint64_t, uint64_t size, const double* position, double* kept, void* pointer) {
  std::memcpy(kept, position, size * sizeof(double));
  static_cast<Density*>(pointer)->kept += 1;
  return 0;
}

// How many draws have been stored.
uint64_t ppl_vae_kept(void* pointer) { return static_cast<Density*>(pointer)->kept; }

// Whether a call has failed.
int64_t ppl_vae_broken(void* pointer) { return static_cast<Density*>(pointer)->broken; }

}  // extern "C"
