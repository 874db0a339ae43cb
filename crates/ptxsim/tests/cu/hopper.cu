// TMA through libcu++, bulk copies, clusters with distributed shared memory, asserts.
#include <cassert>
#include <cuda.h>
#include <cuda/barrier>
#include <cooperative_groups.h>
#include <cuda_bf16.h>
namespace cde=cuda::device::experimental;
using barrier=cuda::barrier<cuda::thread_scope_block>;
extern "C" __global__ void k_tma(const __grid_constant__ CUtensorMap m,const __grid_constant__ CUtensorMap mo,int x,int y){__shared__ alignas(128) int s[8][64];
#pragma nv_diag_suppress static_var_with_dynamic_init
__shared__ barrier bar;if(threadIdx.x==0){init(&bar,blockDim.x);cde::fence_proxy_async_shared_cta();}__syncthreads();barrier::arrival_token t;if(threadIdx.x==0){cde::cp_async_bulk_tensor_2d_global_to_shared(&s,&m,x,y,bar);t=cuda::device::barrier_arrive_tx(bar,1,sizeof(s));}else t=bar.arrive();bar.wait(std::move(t));s[0][threadIdx.x]+=threadIdx.x;cde::fence_proxy_async_shared_cta();__syncthreads();if(threadIdx.x==0){cde::cp_async_bulk_tensor_2d_shared_to_global(&mo,x,y,&s);cde::cp_async_bulk_commit_group();cde::cp_async_bulk_wait_group_read<0>();}if(threadIdx.x==0)(&bar)->~barrier();}
extern "C" __global__ void k_bulk(const float*a,float*b){__shared__ alignas(16) float s[1024];__shared__ barrier bar;if(threadIdx.x==0){init(&bar,blockDim.x);cde::fence_proxy_async_shared_cta();}__syncthreads();barrier::arrival_token t;if(threadIdx.x==0){cde::cp_async_bulk_global_to_shared(s,a+blockIdx.x*1024,sizeof(s),bar);t=cuda::device::barrier_arrive_tx(bar,1,sizeof(s));}else t=bar.arrive();bar.wait(std::move(t));for(int i=threadIdx.x;i<1024;i+=blockDim.x)s[i]+=1;cde::fence_proxy_async_shared_cta();__syncthreads();if(threadIdx.x==0){cde::cp_async_bulk_shared_to_global(b+blockIdx.x*1024,s,sizeof(s));cde::cp_async_bulk_commit_group();cde::cp_async_bulk_wait_group_read<0>();}}
extern "C" __global__ void __cluster_dims__(2,1,1) k_cluster(int*o){__shared__ int s[32];auto c=cooperative_groups::this_cluster();s[threadIdx.x]=threadIdx.x+100*c.block_rank();c.sync();int*r=c.map_shared_rank(s,c.block_rank()^1);o[blockIdx.x*32+threadIdx.x]=r[threadIdx.x];atomicAdd(r,1);c.sync();if(threadIdx.x==0)o[64+blockIdx.x]=s[0];}
extern "C" __global__ void k_pdl(int*o){cudaGridDependencySynchronize();o[threadIdx.x]=1;cudaTriggerProgrammaticLaunchCompletion();}
extern "C" __global__ void k_assert(int*o){assert(o[0]);o[1]=2;}

// Every CTA of a cluster of two multicasts half of the data to both; results are reduced into global memory in bulk.
#include <cstdint>
__device__ __forceinline__ uint32_t s32(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
extern "C" __global__ void __cluster_dims__(2,1,1) k_multicast(const float* a, float* sum) {
  __shared__ alignas(16) float s[256]; __shared__ alignas(8) uint64_t bar; int t = threadIdx.x; auto c = cooperative_groups::this_cluster(); uint32_t r = c.block_rank();
  if (t == 0) { asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(s32(&bar)) : "memory"); asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
  c.sync();
  if (t == 0) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 1024;" ::"r"(s32(&bar)) : "memory");
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], 512, [%2], %3;" ::"r"(s32(s) + r * 512), "l"(a + r * 128), "r"(s32(&bar)), "h"((unsigned short)3) : "memory");
  }
  asm volatile("{\n.reg .pred p;\nL: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], 0;\n@!p bra L;\n}" ::"r"(s32(&bar)) : "memory");
  for (int i = t; i < 256; i += 64) s[i] *= r + 1;
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); __syncthreads();
  if (t == 0) {
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], 1024;" ::"l"(sum), "r"(s32(s)) : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory"); asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  }
  c.sync();
}
