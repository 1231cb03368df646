// The extension module deepseek._runtime: memory, threads, machine and profile; the rest is bound
// in the files beside this one.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings.h"
#include "deepseek/arena.h"
#include "deepseek/claims.h"
#include "deepseek/cpu.h"
#include "deepseek/pool.h"
#include "deepseek/profile.h"
#include "deepseek/thread_pool.h"
#include "gil.h"

namespace deepseek::python {
namespace {

py::dict pool_stats() {
  const PoolStats stats = Pool::global().stats();
  py::dict dict;
  dict["in_use"] = stats.in_use;
  dict["reserved"] = stats.reserved;
  dict["cached"] = stats.cached;
  dict["peak"] = stats.peak;
  dict["allocations"] = stats.allocations;
  dict["cache_hits"] = stats.cache_hits;
  dict["live_blocks"] = stats.live_blocks;
  dict["limit"] = stats.limit;
  dict["physical"] = stats.physical;
  return dict;
}

void set_memory_limit(std::optional<py::ssize_t> nbytes) {
  if (nbytes && *nbytes < 0) {
    throw py::value_error("memory limit must not be negative, got " + std::to_string(*nbytes));
  }
  Pool::global().set_limit(nbytes ? std::optional(static_cast<size_t>(*nbytes)) : std::nullopt);
}

py::dict features() {
  const CpuFeatures cpu = cpu_features();
  py::dict dict;
  dict["level"] = cpu.level;
  dict["name"] = cpu.name;
  dict["flags"] = cpu.flags;
  dict["bf16"] = cpu.has("avx512bf16");
  dict["vnni"] = cpu.has("avx512vnni") || cpu.has("avxvnni");
  dict["threads"] = hardware_threads();
  dict["l1d"] = cpu.l1d;
  dict["l2"] = cpu.l2;
  dict["l3"] = cpu.l3;
  return dict;
}

py::list profile() {
  py::list list;
  for (const ProfileRecord& record : take_profile()) {
    list.append(py::make_tuple(*record.program, record.step, record.start_ns, record.end_ns));
  }
  return list;
}

using Numbers = std::vector<int64_t>;

}  // namespace

PYBIND11_MODULE(_runtime, module) {
  module.doc() = "The C++ runtime: buffers, threads, loader, Programs. It knows no op.";
  // What is raised is one of deepseek's own errors, whoever allocates.
  const py::module_ errors = py::module_::import("deepseek.errors");
  py::register_exception<OutOfMemory>(module, "OutOfMemory", errors.attr("OutOfMemoryError"));
  py::register_exception<StillWriting>(module, "StillWriting", errors.attr("BackendError"));
  py::register_exception<CollectiveError>(module, "CollectiveError",
                                          errors.attr("DistributedError"));

  bind_buffer(module);
  module.def("pool_stats", &pool_stats);
  module.def("live_blocks", [] { return Pool::global().live_blocks(); });
  module.def("set_memory_limit", &set_memory_limit, py::arg("nbytes"));
  module.def("empty_cache", [] { return Pool::global().empty_cache(); });
  module.def("reset_peak", [] { Pool::global().reset_peak(); });

  module.def(
      "pack_arena",
      [](const Numbers& sizes, const Numbers& first, const Numbers& last, int64_t alignment) {
        Packing packing = pack_arena(sizes, first, last, alignment);
        return std::make_pair(std::move(packing.offsets), packing.total);
      },
      py::arg("sizes"), py::arg("first"), py::arg("last"), py::arg("alignment") = kArenaAlignment);
  module.def(
      "live_lower_bound",
      [](const Numbers& sizes, const Numbers& first, const Numbers& last, int64_t alignment) {
        return live_lower_bound(sizes, first, last, alignment);
      },
      py::arg("sizes"), py::arg("first"), py::arg("last"), py::arg("alignment") = kArenaAlignment);

  module.def(
      "set_num_threads",
      [](int count) {
        const WithoutGil release;
        ThreadPool::global().set_num_threads(count);
      },
      py::arg("count"));
  module.def("get_num_threads", [] { return ThreadPool::global().num_threads(); });
  module.def("cpu_features", &features);

  module.def(
      "begin_trace", [] { wait_until([] { return begin_trace(kPatience); }); },
      "Keep other threads from changing tensors, when those that do so have finished.");
  module.def("end_trace", &end_trace);
  module.def("wait_for_trace", [] { wait_until([] { return wait_for_trace(kPatience); }); });
  module.def("writing_here", &writing_here);

  bind_collective(module);
  bind_program(module);

  module.def("set_profile", &set_profile, py::arg("on"));
  module.def("take_profile", &profile);
  bind_call_recording(module);
  bind_dispatcher(module);
  bind_nodes(module);
  bind_walks(module);
}

}  // namespace deepseek::python
