//! Unmodified cudarc on the stand-in. Each test starts itself again with the library path set, because a process
//! loads its driver library once.

// cudarc's launches and bindings are unsafe; each here passes live buffers of the sizes the kernels expect.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::path::PathBuf;
use std::process::Command;

use cudarc::driver::{CudaContext, DevicePtr, LaunchConfig, PushKernelArg, sys};
use cudarc::nvrtc::Ptx;

/// The cdylib that cargo built beside this test.
fn library() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let dir = exe.parent().unwrap();
    [dir.to_path_buf(), dir.parent().unwrap().to_path_buf()]
        .into_iter()
        .map(|d| d.join("libptxsim_driver.so"))
        .find(|p| p.exists())
        .expect("libptxsim_driver.so is not built")
}

/// Runs the ignored test `name` of this file with the stand-in as driver.
fn inner(name: &str, allowed: bool) -> String {
    inner_as(name, allowed, None)
}

/// The same on a device that says it is of this compute capability.
fn inner_as(name: &str, allowed: bool, capability: Option<&str>) -> String {
    let dir = std::env::temp_dir().join(format!("ptxsim-driver-{}-{name}", std::process::id()));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/link.sh");
    assert!(Command::new(script).arg(library()).arg(&dir).status().unwrap().success());
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", name])
        .env("LD_LIBRARY_PATH", &dir)
        .env("LOWRANK_PTXSIM", if allowed { "1" } else { "0" })
        .env("LOWRANK_PTXSIM_CAPABILITY", capability.unwrap_or("9.0"))
        .output()
        .unwrap();
    let _ = std::fs::remove_dir_all(&dir);
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{text}");
    text
}

#[test]
fn runs_unmodified_cudarc() {
    inner("inner_runs", true);
}

#[test]
fn reports_faults() {
    let text = inner("inner_faults", true);
    assert!(text.contains("OutOfBounds") && text.contains("Race"), "{text}");
}

#[test]
fn enforces_what_drivers_enforce() {
    let text = inner("inner_enforces", true);
    assert!(text.contains("use after free"), "{text}");
}

#[test]
fn answers_only_when_asked() {
    inner("inner_refuses", false);
}

#[test]
fn is_the_device_that_it_is_told_to_be() {
    inner_as("inner_older", true, Some("8.0"));
    let text = inner_as("inner_refuses", true, Some("3.5"));
    assert!(text.contains("LOWRANK_PTXSIM_CAPABILITY") && text.contains("8.0 or 9.0"), "{text}");
}

#[test]
#[ignore = "started by is_the_device_that_it_is_told_to_be"]
fn inner_older() {
    let ctx = CudaContext::new(0).unwrap();
    assert_eq!(ctx.compute_capability().unwrap(), (8, 0));
    ctx.load_module(Ptx::from_src(PTX)).unwrap();
    for target in ["sm_90a", "sm_90", "sm_86"] {
        assert!(ctx.load_module(Ptx::from_src(PTX.replace("sm_80", target))).is_err(), "{target}");
    }
    let optin = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    assert_eq!(ctx.attribute(optin).unwrap(), 163 << 10);
}

const PTX: &str = "
.version 7.0
.target sm_80
.address_size 64
.visible .global .align 4 .u32 scale = 3;
.visible .entry axpy(.param .u64 x, .param .u64 y, .param .f32 a, .param .u32 n) {
  .reg .pred %p1; .reg .b32 %r<5>; .reg .f32 %f<5>; .reg .b64 %rd<5>;
  mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x; mad.lo.u32 %r1, %r1, %r2, %r3;
  ld.param.u32 %r2, [n]; setp.ge.u32 %p1, %r1, %r2; @%p1 ret;
  ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y]; mul.wide.u32 %rd3, %r1, 4; add.u64 %rd1, %rd1, %rd3; add.u64 %rd2, %rd2, %rd3;
  ld.param.f32 %f1, [a]; ld.global.f32 %f2, [%rd1]; ld.global.f32 %f3, [%rd2]; fma.rn.f32 %f3, %f1, %f2, %f3; st.global.f32 [%rd2], %f3; ret;
}
.extern .shared .align 4 .b8 dyn[];
.visible .entry big(.param .u64 o) {
  .reg .b32 %r<5>; .reg .b64 %rd<5>;
  mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 10; mov.u32 %r3, dyn; add.u32 %r3, %r3, %r2; st.shared.u32 [%r3], %r1; ld.shared.u32 %r4, [%r3];
  ld.param.u64 %rd1, [o]; mul.wide.u32 %rd2, %r1, 4; add.u64 %rd1, %rd1, %rd2; st.global.u32 [%rd1], %r4; ret;
}
.visible .entry race(.param .u64 o) {
  .reg .b32 %r<5>; .reg .b64 %rd<5>; .shared .align 4 .b8 s[256];
  mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 2; mov.u32 %r3, s; add.u32 %r2, %r3, %r2; st.shared.u32 [%r2], %r1; ld.shared.u32 %r4, [s];
  ld.param.u64 %rd1, [o]; mul.wide.u32 %rd2, %r1, 4; add.u64 %rd1, %rd1, %rd2; st.global.u32 [%rd1], %r4; ret;
}
.visible .entry tile(.param .align 128 .b8 m[128], .param .u64 o) {
  .reg .pred %p<3>; .reg .b32 %r<9>; .reg .b64 %rd<5>; .shared .align 128 .b8 s[128]; .shared .align 8 .b8 bar[8];
  mov.u32 %r1, %tid.x; mov.u32 %r2, bar; mov.u32 %r3, s; setp.ne.u32 %p1, %r1, 0; mov.b64 %rd1, m;
  @%p1 bra W; mbarrier.init.shared.b64 [%r2], 1; mbarrier.arrive.expect_tx.shared.b64 _, [%r2], 128;
  cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r3], [%rd1, {4, 2}], [%r2];
  W: bar.sync 0;
  L: mbarrier.try_wait.parity.shared.b64 %p2, [%r2], 0; @!%p2 bra L;
  shl.b32 %r4, %r1, 2; add.u32 %r4, %r4, %r3; ld.shared.u32 %r5, [%r4]; ld.param.u64 %rd2, [o]; mul.wide.u32 %rd3, %r1, 4; add.u64 %rd2, %rd2, %rd3;
  st.global.u32 [%rd2], %r5; ret;
}";

#[test]
#[ignore = "started by runs_unmodified_cudarc"]
fn inner_runs() {
    let ctx = CudaContext::new(0).unwrap();
    assert_eq!(ctx.name().unwrap(), "ptxsim (simulated)");
    assert_eq!(ctx.compute_capability().unwrap(), (9, 0));
    let s = ctx.new_stream().unwrap();
    let m = ctx.load_module(Ptx::from_src(PTX)).unwrap();
    let f = m.load_function("axpy").unwrap();
    assert!(m.load_function("nothing").is_err());
    // Launches, copies, events.
    let x = s.clone_htod(&[1f32; 1000]).unwrap();
    let mut y = s.clone_htod(&[2f32; 1000]).unwrap();
    let (a, n) = (3f32, 1000u32);
    let start = s.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    unsafe { s.launch_builder(&f).arg(&x).arg(&mut y).arg(&a).arg(&n).launch(LaunchConfig::for_num_elems(n)).unwrap() };
    let end = s.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    assert!(start.elapsed_ms(&end).unwrap() >= 0.0);
    assert_eq!(s.clone_dtoh(&y).unwrap(), vec![5f32; 1000]);
    // A captured graph does its work only when it is launched, every time.
    unsafe { ctx.disable_event_tracking() };
    s.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    unsafe { s.launch_builder(&f).arg(&x).arg(&mut y).arg(&a).arg(&n).launch(LaunchConfig::for_num_elems(n)).unwrap() };
    let g =
        s.end_capture(sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH).unwrap().unwrap();
    assert_eq!(s.clone_dtoh(&y).unwrap(), vec![5f32; 1000]);
    g.launch().unwrap();
    g.launch().unwrap();
    assert_eq!(s.clone_dtoh(&y).unwrap(), vec![11f32; 1000]);
    // Shared memory above 48 KiB must be asked for.
    let big = m.load_function("big").unwrap();
    let mut o = s.alloc_zeros::<u32>(64).unwrap();
    let cfg = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (64, 1, 1), shared_mem_bytes: 65536 };
    let refused = unsafe { s.launch_builder(&big).arg(&mut o).launch(cfg) };
    assert!(refused.is_err());
    big.set_attribute(sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 65536).unwrap();
    unsafe { s.launch_builder(&big).arg(&mut o).launch(cfg).unwrap() };
    assert_eq!(s.clone_dtoh(&o).unwrap(), (0..64).collect::<Vec<u32>>());
    assert!(
        unsafe { s.launch_builder(&big).arg(&mut o).launch(LaunchConfig { block_dim: (1025, 1, 1), ..cfg }) }.is_err()
    );
    // A tensor map: an 8 × 4 box at (4, 2) of a 16 × 8 tensor.
    #[repr(C, align(128))]
    struct Map(sys::CUtensorMap);
    // SAFETY: plain bytes, passed to the kernel by value.
    unsafe impl cudarc::driver::DeviceRepr for Map {}
    let t = s.clone_htod(&(0..128u32).collect::<Vec<_>>()).unwrap();
    let base = t.device_ptr(&s).0;
    let mut map = Map(unsafe { std::mem::zeroed() });
    let r = unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut map.0,
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT32,
            2,
            base as *mut _,
            [16u64, 8].as_ptr(),
            [64u64].as_ptr(),
            [8u32, 4].as_ptr(),
            [1u32, 1].as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    assert_eq!(r, sys::CUresult::CUDA_SUCCESS);
    let tile = m.load_function("tile").unwrap();
    let mut out = s.alloc_zeros::<u32>(32).unwrap();
    let cfg = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 };
    unsafe { s.launch_builder(&tile).arg(&map).arg(&mut out).launch(cfg).unwrap() };
    let want: Vec<u32> = (0..32).map(|i| (2 + i / 8) * 16 + 4 + i % 8).collect();
    assert_eq!(s.clone_dtoh(&out).unwrap(), want);
    // Modules that are not PTX, or use what is not implemented, are refused with the reason in the JIT log.
    assert!(ctx.load_module(Ptx::from_src("nonsense")).is_err());
    let mut log = [0u8; 256];
    let mut module = std::ptr::null_mut();
    let mut options =
        [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values = [log.as_mut_ptr() as *mut _, log.len() as *mut _];
    let text = c".version 7.0 .target sm_80 .address_size 64 .entry k() { frob.u32; }";
    let r = unsafe {
        sys::cuModuleLoadDataEx(&mut module, text.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr())
    };
    assert_ne!(r, sys::CUresult::CUDA_SUCCESS);
    assert!(String::from_utf8_lossy(&log).contains("frob.u32"), "{:?}", String::from_utf8_lossy(&log));
    // Globals by name, memory information.
    let mut bytes = 0usize;
    let mut at = 0;
    let raw = unsafe { std::mem::zeroed::<sys::CUmodule>() };
    assert_ne!(
        unsafe { sys::cuModuleGetGlobal_v2(&mut at, &mut bytes, raw, c"scale".as_ptr()) },
        sys::CUresult::CUDA_SUCCESS
    );
    let (free, total) = ctx.mem_get_info().unwrap();
    assert!(free < total);
    s.synchronize().unwrap();
}

#[test]
#[ignore = "started by reports_faults"]
fn inner_faults() {
    let ctx = CudaContext::new(0).unwrap();
    let s = ctx.new_stream().unwrap();
    let m = ctx.load_module(Ptx::from_src(PTX)).unwrap();
    let mut o = s.alloc_zeros::<u32>(32).unwrap();
    let cfg = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (64, 1, 1), shared_mem_bytes: 0 };
    let race = m.load_function("race").unwrap();
    // 64 threads, 32 elements: a race, and then out of bounds.
    assert!(unsafe { s.launch_builder(&race).arg(&mut o).launch(cfg) }.is_err());
    // The fault sticks.
    assert!(s.synchronize().is_err());
    assert!(s.alloc_zeros::<u32>(32).is_err());
}

#[test]
#[ignore = "started by answers_only_when_asked"]
fn inner_refuses() {
    assert!(unsafe { sys::is_culib_present() });
    let e = cudarc::driver::result::init().unwrap_err();
    assert_eq!(e.0, sys::CUresult::CUDA_ERROR_NO_DEVICE);
}

#[test]
#[ignore = "started by enforces_what_drivers_enforce"]
fn inner_enforces() {
    use std::ptr::null_mut;
    use sys::CUresult as E;
    let mut p = 0;
    // Without a context nothing works but asking for one.
    assert_eq!(unsafe { sys::cuMemAlloc_v2(&mut p, 16) }, E::CUDA_ERROR_NOT_INITIALIZED);
    cudarc::driver::result::init().unwrap();
    assert_eq!(unsafe { sys::cuMemAlloc_v2(&mut p, 16) }, E::CUDA_ERROR_INVALID_CONTEXT);
    assert_eq!(unsafe { sys::cuCtxSetCurrent(0x77 as *mut _) }, E::CUDA_ERROR_INVALID_CONTEXT);
    let ctx = CudaContext::new(0).unwrap();
    let other = std::thread::spawn(|| {
        let mut q = 0;
        unsafe { sys::cuMemAlloc_v2(&mut q, 16) }
    });
    assert_eq!(other.join().unwrap(), E::CUDA_ERROR_INVALID_CONTEXT);
    // Memory: sizes, ends, use after free, double free.
    let host = [0u8; 64];
    let copy = |d: u64, n: usize| unsafe { sys::cuMemcpyHtoD_v2(d, host.as_ptr().cast(), n) };
    assert_eq!(unsafe { sys::cuMemAlloc_v2(&mut p, 0) }, E::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(unsafe { sys::cuMemAlloc_v2(&mut p, usize::MAX / 2) }, E::CUDA_ERROR_OUT_OF_MEMORY);
    assert_eq!(unsafe { sys::cuMemAlloc_v2(&mut p, 48) }, E::CUDA_SUCCESS);
    assert_eq!(copy(p, 48), E::CUDA_SUCCESS);
    assert_eq!(copy(p, 49), E::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(unsafe { sys::cuMemsetD32_v2(p + 2, 0, 4) }, E::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(unsafe { sys::cuMemFree_v2(p + 16) }, E::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(unsafe { sys::cuMemFree_v2(p) }, E::CUDA_SUCCESS);
    assert_eq!(copy(p, 16), E::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(unsafe { sys::cuMemFree_v2(p) }, E::CUDA_ERROR_INVALID_VALUE);
    // Modules and launches.
    let text = std::ffi::CString::new(PTX).unwrap();
    let (mut m, mut axpy, mut big) = (null_mut(), null_mut(), null_mut());
    assert_eq!(unsafe { sys::cuModuleLoadData(&mut m, text.as_ptr().cast()) }, E::CUDA_SUCCESS);
    assert_eq!(unsafe { sys::cuModuleGetFunction(&mut axpy, m, c"axpy".as_ptr()) }, E::CUDA_SUCCESS);
    assert_eq!(unsafe { sys::cuModuleGetFunction(&mut big, m, c"big".as_ptr()) }, E::CUDA_SUCCESS);
    let mut x = 0;
    assert_eq!(unsafe { sys::cuMemAlloc_v2(&mut x, 4096) }, E::CUDA_SUCCESS);
    assert_eq!(unsafe { sys::cuMemsetD8_v2(x, 0, 4096) }, E::CUDA_SUCCESS);
    let (mut a, mut n) = (2f32, 100u32);
    let mut args = [(&raw mut x).cast(), (&raw mut x).cast(), (&raw mut a).cast(), (&raw mut n).cast()];
    let mut go = |f, grid: [u32; 3], block: [u32; 3], shared| unsafe {
        sys::cuLaunchKernel(
            f,
            grid[0],
            grid[1],
            grid[2],
            block[0],
            block[1],
            block[2],
            shared,
            null_mut(),
            args.as_mut_ptr(),
            null_mut(),
        )
    };
    assert_eq!(go(axpy, [1; 3], [128, 1, 1], 0), E::CUDA_SUCCESS);
    for (grid, block, shared) in [
        ([1; 3], [1025, 1, 1], 0),
        ([1; 3], [32, 32, 2], 0),
        ([1; 3], [1, 1, 65], 0),
        ([1; 3], [0, 1, 1], 0),
        ([0, 1, 1], [32, 1, 1], 0),
        ([1, 65536, 1], [32, 1, 1], 0),
        ([1, 1, 65536], [32, 1, 1], 0),
        ([1; 3], [32, 1, 1], 48 * 1024 + 1),
    ] {
        assert_eq!(go(axpy, grid, block, shared), E::CUDA_ERROR_INVALID_VALUE, "{grid:?} {block:?} {shared}");
    }
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    assert_eq!(unsafe { sys::cuFuncSetAttribute(big, attribute, 227 * 1024 + 1) }, E::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(unsafe { sys::cuFuncSetAttribute(big, attribute, 227 * 1024) }, E::CUDA_SUCCESS);
    // Arguments: none, and a buffer of the wrong size.
    let launch = |args: *mut *mut std::ffi::c_void, extra: *mut *mut std::ffi::c_void| unsafe {
        sys::cuLaunchKernel(axpy, 1, 1, 1, 32, 1, 1, 0, null_mut(), args, extra)
    };
    assert_eq!(launch(null_mut(), null_mut()), E::CUDA_ERROR_INVALID_VALUE);
    let mut block = [0u8; 64];
    block[..8].copy_from_slice(&x.to_le_bytes());
    block[8..16].copy_from_slice(&x.to_le_bytes());
    for (mut size, want) in
        [(24usize, E::CUDA_SUCCESS), (20, E::CUDA_ERROR_INVALID_VALUE), (32, E::CUDA_ERROR_INVALID_VALUE)]
    {
        let mut extra = [
            std::ptr::without_provenance_mut(1),
            block.as_mut_ptr().cast(),
            std::ptr::without_provenance_mut(2),
            (&raw mut size).cast(),
            null_mut::<std::ffi::c_void>(),
        ];
        assert_eq!(launch(null_mut(), extra.as_mut_ptr()), want, "{size}");
    }
    // Streams, capture and graphs.
    let (mut s, mut g, mut exec) = (null_mut(), null_mut(), null_mut());
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    assert_eq!(unsafe { sys::cuStreamCreate(&mut s, 1) }, E::CUDA_SUCCESS);
    assert_ne!(unsafe { sys::cuStreamBeginCapture_v2(null_mut(), mode) }, E::CUDA_SUCCESS);
    assert_eq!(unsafe { sys::cuStreamEndCapture(s, &mut g) }, E::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(unsafe { sys::cuStreamBeginCapture_v2(s, mode) }, E::CUDA_SUCCESS);
    assert_ne!(unsafe { sys::cuStreamSynchronize(s) }, E::CUDA_SUCCESS);
    assert_eq!(unsafe { sys::cuStreamEndCapture(s, &mut g) }, E::CUDA_SUCCESS);
    assert_eq!(unsafe { sys::cuGraphInstantiateWithFlags(&mut exec, g, 0) }, E::CUDA_SUCCESS);
    assert_eq!(unsafe { sys::cuGraphLaunch(exec, s) }, E::CUDA_SUCCESS);
    assert_eq!(unsafe { sys::cuGraphExecDestroy(exec) }, E::CUDA_SUCCESS);
    assert_eq!(unsafe { sys::cuGraphLaunch(exec, s) }, E::CUDA_ERROR_INVALID_HANDLE);
    assert_eq!(unsafe { sys::cuStreamDestroy_v2(s) }, E::CUDA_SUCCESS);
    assert_eq!(unsafe { sys::cuStreamSynchronize(s) }, E::CUDA_ERROR_INVALID_HANDLE);
    // Tensor maps: address, stride, box, width of the swizzle.
    #[repr(C, align(64))]
    struct Map(sys::CUtensorMap);
    let encode = |base: u64, stride: u64, inner: u32, swizzle| {
        let mut map = Map(unsafe { std::mem::zeroed() });
        unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map.0,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
                2,
                base as *mut _,
                [16u64, 8].as_ptr(),
                [stride].as_ptr(),
                [inner, 4].as_ptr(),
                [1u32, 1].as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
    };
    use sys::CUtensorMapSwizzle::{CU_TENSOR_MAP_SWIZZLE_32B as B32, CU_TENSOR_MAP_SWIZZLE_NONE as PLAIN};
    assert_eq!(encode(x, 64, 8, PLAIN), E::CUDA_SUCCESS);
    for (base, stride, inner, swizzle) in [
        (x + 8, 64, 8, PLAIN),
        (x, 72, 8, PLAIN),
        (x, 1 << 40, 8, PLAIN),
        (x, 64, 0, PLAIN),
        (x, 64, 3, PLAIN),
        (x, 64, 260, PLAIN),
        (x, 64, 16, B32),
    ] {
        assert_eq!(encode(base, stride, inner, swizzle), E::CUDA_ERROR_INVALID_VALUE, "{stride} {inner}");
    }
    // A kernel that uses what was freed; the error stays.
    x = p;
    args = [(&raw mut x).cast(), (&raw mut x).cast(), (&raw mut a).cast(), (&raw mut n).cast()];
    let r = unsafe { sys::cuLaunchKernel(axpy, 1, 1, 1, 32, 1, 1, 0, null_mut(), args.as_mut_ptr(), null_mut()) };
    assert_eq!(r, E::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(unsafe { sys::cuMemAlloc_v2(&mut p, 16) }, E::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(unsafe { sys::cuModuleUnload(m) }, E::CUDA_SUCCESS);
    assert_eq!(unsafe { sys::cuModuleUnload(m) }, E::CUDA_ERROR_INVALID_HANDLE);
    drop(ctx);
}
