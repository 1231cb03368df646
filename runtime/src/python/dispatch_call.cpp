// Runs a call that fits its entry: binds buffers, decides what is donated, runs the Program without
// the GIL, and shows the results.
#include <pybind11/stl.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <mutex>

#include "deepseek/executor.h"
#include "dispatch.h"
#include "signals.h"

namespace deepseek::python {
namespace {

[[noreturn]] void fail() {
  throw py::error_already_set();
}

py::object checked(PyObject* owned) {
  if (owned == nullptr) {
    fail();
  }
  return py::reinterpret_steal<py::object>(owned);
}

// ---- tensors that a call writes ----------------------------------------------------------------
// Their buffers are claimed while the GIL is away. Other calls that want one wait: so none sees
// half of an update, and no update is lost.

std::mutex claims_mutex;
std::condition_variable claims_changed;

class Claims {
 public:
  void add(const std::shared_ptr<Buffer>& buffer) {
    buffer->claim(true);
    claimed_.push_back(buffer.get());
  }

  ~Claims() {
    if (claimed_.empty()) {
      return;
    }
    {
      std::lock_guard lock(claims_mutex);
      for (Buffer* buffer : claimed_) {
        buffer->claim(false);
      }
    }
    claims_changed.notify_all();
  }

 private:
  std::vector<Buffer*> claimed_;
};

bool wait_for_claims(const Frame& frame) {
  const auto is_claimed = [](const auto& buffer) { return buffer && buffer->claimed(); };
  const auto found = std::find_if(frame.buffers.begin(), frame.buffers.end(), is_claimed);
  if (found == frame.buffers.end()) {
    return false;
  }
  const std::shared_ptr<Buffer> buffer = *found;
  py::gil_scoped_release release;
  std::unique_lock lock(claims_mutex);
  claims_changed.wait(lock, [&] { return !buffer->claimed(); });
  return true;
}

// ---- binding -----------------------------------------------------------------------------------

// Whether nobody but its handle can see a tensor's value.
bool is_alone(PyObject* handle, PyObject* value, PyObject* data, const Buffer& buffer,
              bool gradient) {
  return Py_REFCNT(value) == 1 && Py_REFCNT(data) == 1 && buffer.exports() == 0 &&
         (!gradient || Py_REFCNT(handle) == 1);
}

template <typename T>
std::shared_ptr<Buffer> scalar(Binding& binding, T number) {
  if (!binding.scalar || binding.scalar.use_count() > 1) {
    binding.scalar = Buffer::allocate(sizeof number, "number");
  }
  std::memcpy(binding.scalar->data(), &number, sizeof number);
  return binding.scalar;
}

std::shared_ptr<Buffer> number(Binding& binding, PyObject* object) {
  if (binding.kind == Binding::Kind::kFloat) {
    const double value = PyFloat_AsDouble(object);
    if (value == -1.0 && PyErr_Occurred() != nullptr) {
      fail();
    }
    return scalar(binding, value);
  }
  const int64_t value = PyLong_AsLongLong(object);
  if (value == -1 && PyErr_Occurred() != nullptr) {
    fail();
  }
  return scalar(binding, value);
}

int64_t draws_of(PyObject* generator) {
  return PyLong_AsLongLong(checked(PyObject_GetAttr(generator, names().draws)).ptr());
}

void set_draws(PyObject* generator, int64_t draws) {
  const py::object count = checked(PyLong_FromLongLong(draws));
  if (PyObject_SetAttr(generator, names().draws, count.ptr()) != 0) {
    fail();
  }
}

uint64_t seed_of(PyObject* generator) {
  return PyLong_AsUnsignedLongLong(checked(PyObject_GetAttr(generator, names().seed)).ptr());
}

// Fills the frame's buffers; false if a tensor has to be computed first, which is done.
bool bind_inputs(Entry& entry, Frame& frame) {
  frame.buffers.clear();
  py::object pending;
  for (Binding& binding : entry.bindings) {
    PyObject* object = frame.objects[binding.row];
    switch (binding.kind) {
      case Binding::Kind::kTensor: {
        PyObject* data = slot(value_of(object), frontend.value_data);
        if (data != Py_None) {
          frame.buffers.push_back(as_buffer(data, "a tensor's data"));
          break;
        }
        if (!pending) {
          pending = py::list();
        }
        py::reinterpret_borrow<py::list>(pending).append(py::handle(object));
        frame.buffers.push_back(nullptr);
        break;
      }
      case Binding::Kind::kSeed:
        frame.buffers.push_back(scalar(binding, seed_of(object)));
        break;
      case Binding::Kind::kDraw:
        frame.buffers.push_back(scalar(binding, draws_of(object) + 1));
        break;
      default:
        frame.buffers.push_back(number(binding, object));
    }
  }
  if (pending) {
    checked(PyObject_CallOneArg(frontend.settle, pending.ptr()));
  }
  return !pending;
}

// Decides exactly, by counting who holds what, which inputs the Program may write over.
void decide_donation(const Entry& entry, Frame& frame) {
  frame.donate.assign(entry.donated.empty() ? 0 : frame.buffers.size(), 0);
  for (const Donated& donated : entry.donated) {
    PyObject* handle = frame.objects[entry.bindings[donated.input].row];
    PyObject* value = value_of(handle);
    PyObject* data = slot(value, frontend.value_data);
    const Buffer& buffer = *frame.buffers[donated.input];
    // Two holders: the Python object and the frame.
    frame.donate[donated.input] = is_alone(handle, value, data, buffer, donated.gradient) &&
                                  frame.buffers[donated.input].use_count() == 2;
  }
}

// Takes the next draws for this call alone.
void reserve_draws(const Entry& entry, Frame& frame) {
  frame.reserved.clear();
  for (const Draws& draws : entry.draws) {
    PyObject* generator = frame.objects[draws.row];
    const int64_t before = draws_of(generator);
    set_draws(generator, before + draws.count);
    frame.reserved.emplace_back(py::reinterpret_borrow<py::object>(generator), before);
  }
}

// Gives the draws back where the call failed and nobody drew since.
void return_draws(const Entry& entry, Frame& frame) {
  for (size_t i = 0; i < frame.reserved.size(); ++i) {
    const auto& [generator, before] = frame.reserved[i];
    if (draws_of(generator.ptr()) == before + entry.draws[i].count) {
      set_draws(generator.ptr(), before);
    }
  }
}

// ---- running -----------------------------------------------------------------------------------

py::list buffer_list(std::span<const std::shared_ptr<Buffer>> buffers) {
  py::list list;
  for (const auto& buffer : buffers) {
    list.append(py::cast(buffer));
  }
  return list;
}

py::tuple size_tuple(const Frame& frame) {
  py::tuple sizes(frame.sizes.size());
  for (size_t i = 0; i < frame.sizes.size(); ++i) {
    sizes[i] = frame.sizes[i];
  }
  return sizes;
}

// Adds what the Program computes once from tensors that stay.
void add_prepared(Entry& entry, Frame& frame) {
  std::vector<uint64_t> versions;
  for (const int source : entry.prepared_from) {
    versions.push_back(frame.buffers[static_cast<size_t>(source)]->version());
  }
  for (const int64_t size : frame.sizes) {
    versions.push_back(static_cast<uint64_t>(size));
  }
  if (versions != entry.prepared_versions) {
    const py::object made =
        entry.prepared.attr("up_to_date")(buffer_list(frame.buffers), size_tuple(frame));
    entry.prepared_inputs = py::cast<std::vector<std::shared_ptr<Buffer>>>(made);
    entry.prepared_versions = std::move(versions);
  }
  frame.buffers.insert(frame.buffers.end(), entry.prepared_inputs.begin(),
                       entry.prepared_inputs.end());
  if (!frame.donate.empty()) {
    frame.donate.resize(frame.buffers.size(), 0);
  }
}

using Buffers = std::vector<std::shared_ptr<Buffer>>;

Buffers run_program(const Entry& entry, const Frame& frame) {
  SignalCheck signals;
  py::gil_scoped_release release;
  return run(*entry.program, {frame.buffers, frame.sizes, frame.donate, signals.hook()});
}

// The outputs' buffers, in the order of the graph's outputs.
Buffers run_entry(Entry& entry, Frame& frame) {
  if (!entry.program) {
    py::list donate;
    for (const char flag : frame.donate) {
      donate.append(flag != 0);
    }
    const py::object made = entry.runner(buffer_list(frame.buffers), size_tuple(frame), donate);
    return py::cast<Buffers>(made);
  }
  if (!entry.prepared.is_none()) {
    add_prepared(entry, frame);
  }
  Buffers made;
  try {
    made = run_program(entry, frame);
  } catch (const OutOfMemory&) {
    PyGC_Collect();  // a recorded graph may be a cycle, and holds its buffers until then
    made = run_program(entry, frame);
  }
  Buffers outputs;
  outputs.reserve(entry.sources.size());
  for (const int source : entry.sources) {
    outputs.push_back(source < 0 ? frame.buffers[static_cast<size_t>(~source)]
                                 : made[static_cast<size_t>(source)]);
  }
  return outputs;
}

// ---- results -----------------------------------------------------------------------------------

py::object make_value(PyObject* type, const std::shared_ptr<Buffer>& data,
                      PyObject* requires_grad) {
  py::object value = checked(frontend.value->tp_alloc(frontend.value, 0));
  set_slot(value.ptr(), frontend.value_node, Py_NewRef(frontend.input_node));
  set_slot(value.ptr(), frontend.value_index, PyLong_FromLong(0));
  set_slot(value.ptr(), frontend.value_type, Py_NewRef(type));
  set_slot(value.ptr(), frontend.value_data, py::cast(data).release().ptr());
  set_slot(value.ptr(), frontend.value_handle, Py_NewRef(Py_None));
  set_slot(value.ptr(), frontend.value_requires_grad, Py_NewRef(requires_grad));
  return value;
}

void show(PyObject* tensor, py::object value) {
  PyObject* handle = PyWeakref_NewRef(tensor, nullptr);
  if (handle == nullptr) {
    fail();
  }
  set_slot(value.ptr(), frontend.value_handle, handle);
  set_slot(tensor, frontend.tensor_value, value.release().ptr());
}

py::object make_tensor(py::object value) {
  py::object tensor = checked(frontend.tensor->tp_alloc(frontend.tensor, 0));
  set_slot(tensor.ptr(), frontend.tensor_grad, Py_NewRef(Py_None));
  show(tensor.ptr(), std::move(value));
  return tensor;
}

class Results {
 public:
  Results(const Entry& entry, Frame& frame, const Buffers& outputs)
      : entry_(entry), frame_(frame), outputs_(outputs) {}

  // Whether the output lies in the buffer that its handle shows already: nothing is to be done.
  bool in_place(size_t output) const {
    const size_t donor = entry_.donors[output];
    return donor != kNone && frame_.donate[donor] != 0 && outputs_[output] == frame_.buffers[donor];
  }

  py::object value(size_t output, PyObject* requires_grad) const {
    return make_value(frame_.admitted->types[output], outputs_[output], requires_grad);
  }

  void rebind(std::span<const py::object> handles) {
    size_t next = 0;
    for (const Rebound& rebound : entry_.rebound) {
      PyObject* handle = handles[next++].ptr();
      PyObject* shown = value_of(handle);
      if (slot(shown, frontend.value_requires_grad) != rebound.requires_grad ||
          !in_place(rebound.output)) {
        show(handle, value(rebound.output, rebound.requires_grad));
      }
    }
    for (const Gradient& gradient : entry_.grads) {
      PyObject* handle = handles[next++].ptr();
      if (gradient.output == kNone) {
        set_slot(handle, frontend.tensor_grad, Py_NewRef(gradient.other));
      } else if (!in_place(gradient.output)) {
        py::object made = make_tensor(value(gradient.output, Py_False));
        set_slot(handle, frontend.tensor_grad, made.release().ptr());
      }
    }
  }

  // What the function returns, around its tensors.
  py::object build() {
    for (const auto& [output, requires_grad] : entry_.returned) {
      tensors_.push_back(make_tensor(value(output, requires_grad)));
    }
    return part();
  }

  py::list tensors() const { return py::cast(tensors_); }

 private:
  py::object part() {
    const Item& item = entry_.result[at_++];
    switch (item.kind) {
      case Item::Kind::kTensor:
        return tensors_[next_tensor_++];
      case Item::Kind::kSize:
        return py::reinterpret_borrow<py::object>(frame_.admitted->sizes[next_size_++]);
      case Item::Kind::kSequence:
        return sequence(item);
      case Item::Kind::kDict:
        return dict(item);
      default:
        return py::reinterpret_borrow<py::object>(item.object);
    }
  }

  py::object sequence(const Item& item) {
    py::tuple parts(item.count);
    for (size_t i = 0; i < item.count; ++i) {
      parts[i] = part();
    }
    if (item.object == reinterpret_cast<PyObject*>(&PyTuple_Type)) {
      return parts;
    }
    const py::handle type = item.object;
    return py::hasattr(type, "_fields") ? type(*parts) : type(parts);
  }

  py::object dict(const Item& item) {
    py::object dict = py::handle(item.object)();
    for (PyObject* key : item.keys) {
      const py::object value = part();
      if (PyObject_SetItem(dict.ptr(), key, value.ptr()) != 0) {
        fail();
      }
    }
    return dict;
  }

  const Entry& entry_;
  Frame& frame_;
  const Buffers& outputs_;
  std::vector<py::object> tensors_;
  size_t at_ = 0;
  size_t next_tensor_ = 0;
  size_t next_size_ = 0;
};

// The values that a later gradient through the call starts from.
py::list input_values(const Entry& entry, const Frame& frame) {
  py::list values;
  for (size_t i = 0; i < entry.bindings.size(); ++i) {
    const Binding& binding = entry.bindings[i];
    if (binding.kind == Binding::Kind::kTensor) {
      values.append(py::handle(value_of(frame.objects[binding.row])));
    } else {
      values.append(make_value(binding.type, frame.buffers[i], Py_False));
    }
  }
  return values;
}

// The handles that the call gives other values; held, since others run while the GIL is away.
std::vector<py::object> changed_handles(const Entry& entry, const Frame& frame) {
  std::vector<py::object> handles;
  handles.reserve(entry.rebound.size() + entry.grads.size());
  for (const Rebound& rebound : entry.rebound) {
    handles.push_back(py::reinterpret_borrow<py::object>(frame.objects[rebound.row]));
  }
  for (const Gradient& gradient : entry.grads) {
    handles.push_back(py::reinterpret_borrow<py::object>(frame.objects[gradient.row]));
  }
  return handles;
}

}  // namespace

void Frame::clear() {
  leaves.clear();
  converted.clear();
  objects.clear();
  owned.clear();
  admitted.reset();
  buffers.clear();
  reserved.clear();
}

py::object execute(Entry& entry, Frame& frame) {
  if (!bind_inputs(entry, frame) || wait_for_claims(frame)) {
    return {};
  }
  decide_donation(entry, frame);
  const std::vector<py::object> handles = changed_handles(entry, frame);
  py::list linked;
  if (entry.linked) {
    linked = input_values(entry, frame);
  }
  Claims claims;
  for (const size_t input : entry.written) {
    claims.add(frame.buffers[input]);
  }
  reserve_draws(entry, frame);
  Buffers outputs;
  try {
    outputs = run_entry(entry, frame);
  } catch (...) {
    return_draws(entry, frame);
    throw;
  }
  Results results(entry, frame, outputs);
  results.rebind(handles);
  py::object result = results.build();
  if (entry.linked) {
    entry.plan.attr("link")(linked, results.tensors());
  }
  for (const py::object& effect : entry.effects) {
    effect();
  }
  return result;
}

}  // namespace deepseek::python
