# hydralora_torch: libtorch for our own tests, examples and benchmarks, where it is found. Its TorchConfig.cmake prints, wants gflags,
# glog and protobuf, and fails hard without them: the files themselves are enough.
include_guard(GLOBAL)
find_path(HYDRALORA_TORCH_API torch/torch.h PATH_SUFFIXES torch/csrc/api/include)
find_path(HYDRALORA_TORCH_INCLUDE ATen/ATen.h)
find_library(HYDRALORA_TORCH torch)
find_library(HYDRALORA_TORCH_CPU torch_cpu)
find_library(HYDRALORA_C10 c10)
mark_as_advanced(HYDRALORA_TORCH_API HYDRALORA_TORCH_INCLUDE HYDRALORA_TORCH HYDRALORA_TORCH_CPU HYDRALORA_C10)
if(HYDRALORA_TORCH_API AND HYDRALORA_TORCH_INCLUDE AND HYDRALORA_TORCH AND HYDRALORA_TORCH_CPU AND HYDRALORA_C10)
  add_library(hydralora_torch INTERFACE)
  target_include_directories(hydralora_torch SYSTEM INTERFACE ${HYDRALORA_TORCH_API} ${HYDRALORA_TORCH_INCLUDE})
  target_link_libraries(hydralora_torch INTERFACE ${HYDRALORA_TORCH} ${HYDRALORA_TORCH_CPU} ${HYDRALORA_C10})
endif()
